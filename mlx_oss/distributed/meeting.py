"""Prepares the machines for a model: all have the same one, it fits into all, and one leads.

Knows nothing of how a model is loaded.
"""

from __future__ import annotations

import atexit
import signal
import threading
from dataclasses import replace
from typing import Any

from mlx_oss.distributed import launched
from mlx_oss.distributed.follower import Follower
from mlx_oss.distributed.leader import Machines
from mlx_oss.errors import EngineError, OptionError
from mlx_oss.memory.estimates import format_bytes
from mlx_oss.memory.plan import Plan
from mlx_oss.model.sharding import Shard
from mlx_oss.shards import Rank


class Meeting:
    """The machines of a group, connected.

    Args:
        group: MLX's group.
        about: What has to be the same on all machines: what it is, and its value.

    Attributes:
        shard: The part of this machine.

    Raises:
        EngineError: If the machines cannot connect, or something is not the same.
        OptionError: If they have a model already: the others compute that one until the first machine ends.
    """

    def __init__(self, group: Any, about: dict[str, str]) -> None:
        self.shard = Shard(Rank(group.rank(), group.size()), group)
        self._peers = launched.connected(group)
        if self._peers.is_led:
            raise OptionError("several machines compute one model only: start them again with another one")
        if group.rank():
            self._peers.send("about", about)
            self._peers.heard(0, "same")
            return
        for rank in self._peers.told:
            (others,) = self._peers.heard(rank, "about", dict)
            for what, value in about.items():
                if (other := others.get(what)) != value:
                    name, first = self._peers.names[rank], self._peers.names[0]
                    reason = f"{name} has another {what}: {other}, not {value} as {first}: make them the same"
                    self._peers.end_all(reason)
                    raise EngineError(reason)
        self._peers.send("same")

    def agreed(self, plan: Plan) -> Plan:
        """The plan of this machine, with the context and the chunk that fit into all of them.

        Raises:
            OptionError: If the model does not fit into one of them.
            EngineError: If one of them is gone.
        """
        whole = plan.slots is None and plan.verdict != "too small"
        own = [plan.context, plan.chunk, whole, plan.memory, plan.whole_bytes]
        if self.shard.rank.number:
            self._peers.send("plan", *own)
            context, chunk = self._peers.heard(0, "plan", int, int)
            return replace(plan, context=context, chunk=chunk)
        of_all = {0: own} | {
            rank: self._peers.heard(rank, "plan", int, int, bool, int, int) for rank in self._peers.told
        }
        for rank, (_, _, fits, memory, needed) in of_all.items():
            if not fits:
                reason = (
                    f"{self._peers.names[rank]} has {format_bytes(memory)} for the model, and its part needs "
                    f"{format_bytes(needed, round_up=True)}: use more machines, a shorter context or a smaller model"
                )
                self._peers.end_all(reason)
                raise OptionError(reason)
        context, chunk = (min(row[at] for row in of_all.values()) for at in (0, 1))
        self._peers.send("plan", context, chunk)
        return replace(plan, context=context, chunk=chunk)

    def lead(self) -> Machines:
        """The other machines, for the first one's model."""
        machines = Machines(self.shard)
        for connection in self._peers.connections.values():
            machines.add(connection)
        self._peers.when_gone(machines.lose)
        self._peers.is_led = True
        atexit.register(self._peers.close, "end")
        return machines

    def follow(self, follower: Follower) -> None:
        """Computes what the first machine tells, until it ends. What Ctrl-C means is left to that one.

        Ctrl-C also ends the ssh by which `mlx.launch` has started this process, and with it the terminal here.

        Raises:
            EngineError: If a machine is gone, or this one cannot compute.
        """
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
        try:
            follower.follow(self._peers.told[0])
        except RuntimeError as error:
            raise EngineError(f"it could not compute ({error})") from error
        self._peers.close()
