"""The models of the server: which there are, and which are in memory. Knows nothing of requests.

A model is loaded when a request first needs it. If another one is in memory and both do not fit, that one is let go as
soon as no request uses it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mlx_oss.backend import device
from mlx_oss.chat.settings import Settings
from mlx_oss.errors import DownloadError, quoted
from mlx_oss.generation import compute_thread
from mlx_oss.generation.engine import Engine
from mlx_oss.models.naming import hub_model
from mlx_oss.server.fields import RequestError
from mlx_oss.server.memory import Memory
from mlx_oss.tokenizer import Tokenizer
from mlx_oss.weights.hub.names import NANO, parse

_log = logging.getLogger("mlx_oss.server")

_KEPT_SETTINGS = 32

Load = Callable[[str], tuple[Engine, Tokenizer]]


@dataclass(eq=False)
class Loaded:
    """A model in memory.

    Attributes:
        name: Its name in requests and responses.
        engine: The engine.
        tokenizer: The tokenizer.
        memory: What it has written lately.
        users: Requests that use it now.
        used: When the last of them ended, in seconds of `time.monotonic`.
    """

    name: str
    engine: Engine
    tokenizer: Tokenizer
    memory: Memory = field(init=False)
    users: int = 0
    used: float = field(default_factory=time.monotonic)
    _settings: OrderedDict[str, Settings] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.memory = Memory(self.tokenizer)

    def settings(self, values: Mapping[str, Any]) -> Settings:
        """Settings with these values, checked. They are kept: the instructions of agents have thousands of tokens.

        Args:
            values: Arguments of `Settings`. Equal ones have equal representations. The order of a schema's properties
                counts: it is that of the answer.
        """
        key = json.dumps(values, default=repr)
        with self._lock:
            if (found := self._settings.get(key)) is not None:
                self._settings.move_to_end(key)
                return found
        settings = Settings(engine=self.engine, tokenizer=self.tokenizer, **values)
        settings.check()
        with self._lock:
            self._settings[key] = settings
            while len(self._settings) > _KEPT_SETTINGS:
                self._settings.popitem(last=False)
        return settings


class Models:
    """Loads models and lets them go. Only for one event loop.

    Args:
        default: The model of requests that name none.
        load: Loads a model by its name; called on a thread.
        others: Names of the other models on this disk, which requests may name.
        fits: Whether a model fits beside those that are in memory; called on a thread.
        idle_seconds: After how long without a request a model is let go. None: never.

    Attributes:
        created: When this was made, in seconds since 1970.
    """

    def __init__(
        self,
        default: str,
        load: Load,
        *,
        others: Callable[[], Iterable[str]] = tuple,
        fits: Callable[[str, Iterable[Engine]], bool] = lambda name, engines: False,
        idle_seconds: float | None = None,
    ) -> None:
        self.created = int(time.time())
        self._default, self._load, self._others, self._fits = default, load, others, fits
        self._idle_seconds = idle_seconds
        self._loaded: dict[str, Loaded] = {}
        self._changed = asyncio.Event()  # set, and replaced, whenever something has changed
        self._order: list[object] = []  # requests that wait, the first one first
        self._is_loading = False
        self._unloading: asyncio.TimerHandle | None = None

    @classmethod
    def holding(cls, name: str, engine: Engine, tokenizer: Tokenizer) -> Models:
        """A model that is in memory already, and stays there."""
        models = cls(name, lambda _: (engine, tokenizer))
        models._loaded[shown(name)] = Loaded(shown(name), engine, tokenizer)
        return models

    @property
    def names(self) -> list[str]:
        """The names that requests may give, the default first."""
        return [*self._names()]

    @property
    def loaded(self) -> list[Loaded]:
        """The models in memory."""
        return list(self._loaded.values())

    @property
    def waiting(self) -> int:
        """How many requests wait for a model."""
        return len(self._order)

    def _names(self) -> Mapping[str, str]:
        """What to load, by the name in requests."""
        names = {shown(self._default): self._default}
        for name in self._others():
            names.setdefault(shown(name), name)
        return names

    def name_of(self, asked: str | None) -> str:
        """The name of the model that a request names. Raises RequestError if it is not here."""
        own = shown(self._default)
        if asked is None or asked == own:  # almost always, and without looking at the disk
            return own
        names = self._names()
        for candidate in (asked, shown(asked), asked.rpartition("/")[2], asked.replace(":", "-")):  # as Ollama has it
            if candidate in names:
                return candidate
        raise RequestError(
            f"there is no model {quoted(asked)} here: use one of {', '.join(names)}, or `mlx-oss pull` another one",
            "model",
            status=404,
            code="model_not_found",
        )

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Loaded]:
        """A model in memory, for as long as the context lasts.

        Args:
            name: What `name_of` returned.

        Raises:
            MlxOssError: If it cannot be loaded.
        """
        model = await self._begin_use(name)
        try:
            yield model
        finally:
            model.users -= 1
            model.used = time.monotonic()
            self._schedule_unloading()
            self._wake()

    async def _begin_use(self, name: str) -> Loaded:
        ticket = object()
        self._order.append(ticket)
        try:
            while True:
                changed = self._changed
                is_next = self._order[0] is ticket and not self._is_loading
                if is_next and (name in self._loaded or await self._make_room(name)):
                    break
                await changed.wait()
            if name not in self._loaded:  # it is loaded even if the client leaves meanwhile
                self._is_loading = True
                await asyncio.shield(asyncio.ensure_future(self._load_now(name)))
            model = self._loaded[name]
            model.users += 1
            return model
        finally:
            self._order.remove(ticket)
            self._wake()

    def _wake(self) -> None:
        """Lets the requests that wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _make_room(self, name: str) -> bool:
        """Lets go of models that are in the way. False if one of them is used."""
        if not self._loaded:
            return True
        engines = [model.engine for model in self._loaded.values()]
        if await asyncio.to_thread(self._fits, self._names().get(name, name), engines):
            return True
        del engines
        await self._let_go_of_resting(math.inf)
        return not self._loaded

    async def _load_now(self, name: str) -> None:
        started = time.monotonic()
        try:
            engine, tokenizer = await asyncio.to_thread(self._load, self._names().get(name, name))
            self._loaded[name] = Loaded(name, engine, tokenizer)
        finally:
            self._is_loading = False
            self._schedule_unloading()
            self._wake()
        _log.info("loaded %s in %.1f s", name, time.monotonic() - started)

    async def _let_go_of_resting(self, until: float) -> None:
        """Lets go of each model that nobody has used since a time. Others may do the same meanwhile."""
        while resting := [model.name for model in self.loaded if not model.users and model.used <= until]:
            del self._loaded[resting[0]]
            await asyncio.to_thread(_free)
            _log.info("let go of %s", resting[0])

    def _schedule_unloading(self) -> None:
        """Plans to let go of the model that has rested longest."""
        resting = [model.used for model in self.loaded if not model.users]
        if self._idle_seconds is None or not resting:
            return
        if self._unloading is not None:
            self._unloading.cancel()
        loop, seconds = asyncio.get_running_loop(), min(resting) + self._idle_seconds - time.monotonic()
        self._unloading = loop.call_later(max(seconds, 0.0), lambda: loop.create_task(self._unload_idle()))

    async def _unload_idle(self) -> None:
        await self._let_go_of_resting(time.monotonic() - (self._idle_seconds or 0) + 0.01)
        self._schedule_unloading()


def shown(name: str) -> str:
    """The name of a model in requests and responses: `gpt-oss-20b` for OpenAI's, the folder's name for a folder."""
    try:
        model = hub_model(name) if name != NANO else None
    except DownloadError:
        model = parse(name)
    if model is None:
        return name.rstrip("/").rpartition("/")[2] or name
    return str(model).removeprefix("openai/")


def _free() -> None:
    gc.collect()
    compute_thread.run(device.free_unused_memory)
