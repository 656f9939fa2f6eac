"""Models are loaded when they are needed, one at a time unless both fit, and let go when nobody needs them."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import Any

import pytest

from mlx_oss import CheckpointError, ScriptedEngine, load_tokenizer
from mlx_oss.server import models as models_module
from mlx_oss.server.fields import RequestError
from mlx_oss.server.models import Loaded, Models, shown

TOKENIZER = load_tokenizer()


class Loads:
    """Loads scripted engines, and keeps what was loaded."""

    def __init__(self) -> None:
        self.names = list[str]()
        self.engines = list[weakref.ref[ScriptedEngine]]()

    def __call__(self, name: str) -> tuple[ScriptedEngine, Any]:
        self.names.append(name)
        if name == "damaged":
            raise CheckpointError("the weights are damaged")
        engine = ScriptedEngine()
        self.engines.append(weakref.ref(engine))
        return engine, TOKENIZER


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 20))


@pytest.mark.parametrize(
    ("name", "is_shown_as"),
    [
        ("20b", "gpt-oss-20b"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("somebody/fine-tune", "somebody/fine-tune"),
        ("nano", "nano"),
        ("/models/my tune/", "my tune"),
    ],
)
def test_a_model_has_a_short_name(name, is_shown_as):
    assert shown(name) == is_shown_as


@pytest.mark.parametrize("asked", [None, "gpt-oss-20b", "20b", "openai/gpt-oss-20b", "lmstudio/gpt-oss-20b"])
def test_a_model_is_found_by_each_of_its_names(asked):
    assert Models("20b", Loads(), others=lambda: ["nano"]).name_of(asked) == "gpt-oss-20b"


def test_nothing_is_looked_for_on_the_disk_when_the_servers_own_model_is_named():
    def others():
        raise AssertionError

    assert {Models("20b", Loads(), others=others).name_of(asked) for asked in (None, "gpt-oss-20b")} == {"gpt-oss-20b"}


def test_a_model_that_is_not_here_is_a_404_with_those_that_are():
    models = Models("20b", Loads(), others=lambda: ["somebody/tune"])
    for asked in ("gpt-4", "../../etc/passwd", "120b", ""):
        with pytest.raises(RequestError, match="gpt-oss-20b, somebody/tune") as raised:
            models.name_of(asked)
        assert raised.value.status == 404 and raised.value.param == "model"


def test_a_model_is_loaded_once_however_many_ask_for_it():
    async def go():
        models = Models("20b", loads := Loads())

        async def use():
            async with models.use("gpt-oss-20b") as model:
                await asyncio.sleep(0.01)
                return model.engine

        engines = await asyncio.gather(*(use() for _ in range(9)))
        assert loads.names == ["20b"] and len({id(engine) for engine in engines}) == 1

    run(go())


def test_another_model_waits_until_nobody_uses_the_first_and_then_takes_its_place():
    async def go():
        models, order = Models("20b", loads := Loads(), others=lambda: ["120b"]), []

        async def use(name, seconds):
            async with models.use(name):
                order.append(name)
                await asyncio.sleep(seconds)

        first = asyncio.ensure_future(use("gpt-oss-20b", 0.1))
        await asyncio.sleep(0.05)
        second = asyncio.ensure_future(use("gpt-oss-120b", 0))
        await asyncio.sleep(0.01)
        third = asyncio.ensure_future(use("gpt-oss-20b", 0))  # does not overtake
        await asyncio.gather(first, second, third)
        assert order == ["gpt-oss-20b", "gpt-oss-120b", "gpt-oss-20b"] and loads.names == ["20b", "120b", "20b"]
        gc.collect()
        assert [engine() is None for engine in loads.engines] == [True, True, False]

    run(go())


def test_a_model_that_fits_beside_another_leaves_it_in_memory():
    async def go():
        models = Models("20b", loads := Loads(), others=lambda: ["120b"], fits=lambda name, engines: True)
        async with models.use("gpt-oss-20b"), models.use("gpt-oss-120b"), models.use("gpt-oss-20b"):
            assert len(models.loaded) == 2 and loads.names == ["20b", "120b"]

    run(go())


def test_a_model_that_cannot_be_loaded_is_an_error_of_its_request_alone():
    async def go():
        models = Models("20b", loads := Loads(), others=lambda: ["damaged"])
        for _ in range(2):
            with pytest.raises(CheckpointError):
                async with models.use("damaged"):
                    pass
            async with models.use("gpt-oss-20b"):
                pass
        assert loads.names == ["damaged", "20b", "damaged", "20b"]

    run(go())


def test_a_model_is_let_go_when_it_is_idle_but_not_while_it_is_used():
    async def go():
        models = Models("20b", loads := Loads(), idle_seconds=0.05)
        async with models.use("gpt-oss-20b") as model:
            await asyncio.sleep(0.2)
            assert models.loaded == [model]
        del model
        while models.loaded:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        gc.collect()
        assert loads.engines[0]() is None
        async with models.use("gpt-oss-20b"):
            assert loads.names == ["20b", "20b"]

    run(go())


def test_a_request_that_is_cancelled_while_it_waits_lets_the_next_one_come():
    async def go():
        models = Models("20b", loads := Loads(), others=lambda: ["120b"])

        async def use(name):
            async with models.use(name):
                pass

        async with models.use("gpt-oss-20b"):
            waiting = [asyncio.ensure_future(use(name)) for name in ("gpt-oss-120b", "gpt-oss-20b")]
            await asyncio.sleep(0.05)
            waiting[0].cancel()
            await waiting[1]
            assert models.waiting == 0 and loads.names == ["20b"]

    run(go())


@pytest.mark.parametrize("then", ["gpt-oss-20b", "gpt-oss-120b"])
def test_a_model_whose_client_left_while_it_was_loaded_is_loaded_once_and_alone(then):
    async def go():
        loads, begun, end = Loads(), threading.Event(), threading.Event()
        most = 0

        def load(name):
            nonlocal most
            loaded = loads(name)
            begun.set()
            assert end.wait(10)
            most = max(most, sum(engine() is not None for engine in loads.engines))
            return loaded

        async def use(name):
            async with models.use(name):
                pass

        models = Models("20b", load, others=lambda: ["120b"])
        leaves = asyncio.ensure_future(use("gpt-oss-20b"))
        await asyncio.to_thread(begun.wait, 10)
        leaves.cancel()
        stays = asyncio.ensure_future(use(then))
        await asyncio.sleep(0.05)
        assert loads.names == ["20b"]
        end.set()
        await stays
        assert loads.names == ["20b", "120b"][: 1 if then == "gpt-oss-20b" else 2] and most == 1

    run(go())


def test_a_model_whose_client_left_while_it_was_loaded_is_let_go_when_it_is_idle():
    async def go():
        begun, loads = threading.Event(), Loads()

        def load(name):
            begun.set()
            time.sleep(0.05)
            return loads(name)

        async def use():
            async with models.use("gpt-oss-20b"):
                pass

        models = Models("20b", load, idle_seconds=0.1)
        leaves = asyncio.ensure_future(use())
        await asyncio.to_thread(begun.wait, 10)
        leaves.cancel()
        while not loads.engines or models.loaded or loads.engines[0]() is not None:
            await asyncio.sleep(0.01)
            gc.collect()

    run(go())


def test_a_model_that_is_idle_is_let_go_while_another_one_is_asked():
    async def go():
        models = Models("20b", Loads(), others=lambda: ["120b"], fits=lambda name, engines: True, idle_seconds=0.1)
        async with models.use("gpt-oss-120b"):
            pass
        while "gpt-oss-120b" in [model.name for model in models.loaded]:
            async with models.use("gpt-oss-20b"):
                await asyncio.sleep(0.01)

    run(go())


def test_a_model_that_is_used_again_while_another_is_let_go_stays(monkeypatch):
    async def go():
        freeing, go_on = threading.Event(), threading.Event()

        def free():
            freeing.set()
            assert go_on.wait(10)

        models = Models("20b", Loads(), others=lambda: ["120b"], fits=lambda name, engines: True, idle_seconds=0.05)
        monkeypatch.setattr(models_module, "_free", free)
        for name in models.names:
            async with models.use(name):
                pass
        await asyncio.to_thread(freeing.wait, 10)
        (other,) = models.loaded
        async with models.use(other.name):
            go_on.set()
            await asyncio.sleep(0.2)
            assert models.loaded == [other]

    run(go())


def test_settings_are_made_once_for_equal_values():
    async def go():
        models = Models("20b", Loads())
        async with models.use("gpt-oss-20b") as model:
            values = {"instructions": "Be brief.", "reasoning_effort": "low"}
            assert model.settings(values) is model.settings(dict(values))
            assert model.settings(values) is not model.settings({**values, "reasoning_effort": "high"})

    run(go())


def test_the_properties_of_a_schema_keep_the_order_of_each_request():
    def of(*names):
        schema = {"type": "object", "properties": {name: {"type": "integer"} for name in names}}
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "point", "schema": schema}}}

    model = Loaded("gpt-oss-20b", ScriptedEngine(), TOKENIZER)
    model.settings(of("x", "y"))
    schema = model.settings(of("y", "x")).response_format["json_schema"]["schema"]
    assert list(schema["properties"]) == ["y", "x"]
