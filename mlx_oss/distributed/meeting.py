"""Brings the machines together: who is who, whether all run the same, and what happens when one is gone.

Knows nothing of how a model is loaded.
"""

from __future__ import annotations

import atexit
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import mlx.core as mx

from mlx_oss.distributed import channel, launched
from mlx_oss.distributed.channel import Connection
from mlx_oss.distributed.follower import Follower
from mlx_oss.distributed.leader import Machines
from mlx_oss.errors import EngineError, OptionError
from mlx_oss.memory.estimates import format_bytes
from mlx_oss.memory.plan import Plan
from mlx_oss.model.sharding import Shard
from mlx_oss.shards import Rank
from mlx_oss.terminal import one_line, say
from mlx_oss.version import __version__

_GRACE = 3.0  # seconds in which a computation that waits for a machine that is gone may fail by itself


class Meeting:
    """The machines of a group, connected.

    Args:
        group: MLX's group.
        about: What has to be the same on all machines: what it is, and its value.

    Attributes:
        shard: The part of this machine.

    Raises:
        EngineError: If the machines cannot connect, or something is not the same.
    """

    def __init__(self, group: Any, about: dict[str, str]) -> None:
        self.shard = Shard(Rank(group.rank(), group.size()), group)
        self._about = {"version of mlx-oss": __version__, "version of mlx": version("mlx"), **about}
        self._streams: dict[int, tuple[socket.socket, dict[str, Any]]] = {}
        self._is_over = False
        self._reason, self._gone = "", threading.Event()
        if group.rank() == 0:
            self._lead(group)
        else:
            self._join(group)

    def _lead(self, group: Any) -> None:
        address = launched.first_address()
        server, port, word = channel.listen(address)
        with server:
            launched.agreed(group, f"{address} {port} {word}")
            self._streams = channel.accept(server, word, group.size())
        problem = self._problem()
        for stream, _ in self._streams.values():
            stream.sendall((problem or "ok").encode() + b"\n")
        if problem:
            raise EngineError(problem)

    def _problem(self) -> str:
        """What is not the same on another machine."""
        for rank, (_, hello) in sorted(self._streams.items()):
            for what, value in self._about.items():
                if (other := hello["about"].get(what)) != value:
                    return (
                        f"machine {rank} ({hello['host']}) has another {what}: {other}, not {value} as machine 0 "
                        f"({socket.gethostname()}): make them the same"
                    )
        return ""

    def _join(self, group: Any) -> None:
        address, port, word = launched.agreed(group, "").split()
        hello = {"word": word, "rank": group.rank(), "host": socket.gethostname(), "about": self._about}
        stream = channel.connect(address, int(port), hello)
        stream.settimeout(None)
        answer = channel.read_line(stream).decode().strip()
        if answer != "ok":
            raise EngineError(answer or "the first machine has ended: its output says why")
        self._streams[0] = stream, {"host": address}

    def agreed(self, plan: Plan) -> Plan:
        """The plan of this machine, with the context and the chunk that fit into all of them.

        Raises:
            OptionError: If the model does not fit into one of them.
        """
        whole = plan.slots is None and plan.verdict != "too small"
        own = mx.array([plan.context, plan.chunk, whole, plan.memory >> 20, plan.whole_bytes >> 20], mx.int64)
        of_all: Any = mx.distributed.all_gather(own[None], group=self.shard.group).tolist()
        for rank, (_, _, fits, memory, needed) in enumerate(of_all):
            if not fits:
                has, part = format_bytes(memory << 20), format_bytes(needed << 20, round_up=True)
                raise OptionError(
                    f"machine {rank} has {has} for the model, and its part needs {part}: use more machines, a shorter "
                    "context or a smaller model"
                )
        context, chunk = (min(row[at] for row in of_all) for at in (0, 1))
        return replace(plan, context=context, chunk=chunk)

    def lead(self) -> Machines:
        """The other machines, for the first one's model."""
        machines = Machines(self.shard)
        for rank, (stream, hello) in sorted(self._streams.items()):
            name = f"machine {rank} ({hello['host']})"
            other = Connection(stream, name, lambda reason: self._lost(reason, machines.lose), self._failed)
            machines.add(other)
            other.start()
        atexit.register(self._end, machines)
        return machines

    def _end(self, machines: Machines) -> None:
        self._is_over = True
        machines.close()

    def follow(self, follower: Follower) -> None:
        """Computes what the first machine tells, until it ends. What Ctrl-C means is left to that one."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        stream, hello = self._streams[0]
        name = f"machine 0 ({hello['host']})"
        first = Connection(stream, name, lambda reason: self._lost(reason, lambda _: None), follower.told.put)
        first.start()
        try:
            follower.follow()
        except RuntimeError as error:  # MLX notices first that a machine is gone, and does not say which
            self._gone.wait(_GRACE / 2)
            raise EngineError(self._reason or f"machine {self.shard.rank.number} could not compute ({error})") from None
        finally:
            self._is_over = True
            first.close()

    def _failed(self, message: Any) -> None:
        """The others say nothing but signs of life."""

    def _lost(self, reason: str, note: Callable[[str], None]) -> None:
        """One of them is gone. What this machine computes fails by itself, or the process is ended."""
        if self._is_over:
            return
        self._reason = self._reason or reason
        self._gone.set()
        note(reason)

        def end() -> None:
            time.sleep(_GRACE)
            if not self._is_over:
                channel.end_process(reason, lambda text: say(one_line(f"error: {text}")))

        threading.Thread(target=end, name="mlx-oss end", daemon=True).start()
