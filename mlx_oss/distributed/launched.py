"""Finds the other processes that compute a model together, as `mlx.launch` has told where they are.

Knows nothing of models. Imports MLX only when the machines have met.
"""

from __future__ import annotations

import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlx_oss.backend.mlx_library import load_mlx
from mlx_oss.distributed import is_follower, is_launched, places, roll_call
from mlx_oss.distributed.peers import Peers
from mlx_oss.errors import EngineError, MlxOssError

# Seconds in which all machines have to have loaded MLX, which is slow where its files are not in memory yet.
_LOADING = 60.0
# Seconds in which MLX has to have connected them: all of them wait for it, so it takes a moment, or never ends.
_JOINING = 8.0

_peers: Peers | None = None
_group: Any = None
_is_ready = False


def meet() -> None:
    """Meets the other machines, if there are any. Does not import MLX, so it is done at once when a program starts.

    Raises:
        EngineError: If one of them does not come, or has another version.
    """
    global _peers
    if _peers is None and is_launched() and (told := places.told()) is not None:
        _peers = Peers(told, roll_call.meet(told))


def group() -> Any:
    """MLX's group of the machines; None if there is only this one.

    Raises:
        EngineError: If the others cannot be reached.
    """
    global _group
    meet()
    if _peers is None or _group is not None:
        return _group
    with errors_told():
        load_mlx()
        import mlx.core as mx

        _all_ready(_peers)
        try:
            with _signals_of_the_system(_peers.rank):
                _group = mx.distributed.init(strict=True, backend=_peers.backend)
            connected(_group)
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"the machines do not find each other ({' '.join(str(error).split())}): `mlx-oss hosts check` says why"
            ) from None
    return _group


def _all_ready(peers: Peers) -> None:
    """Waits until all machines have loaded MLX."""
    peers.limit(_LOADING, "ready" if peers.rank == 0 else "go", f"has not loaded MLX within {_LOADING:g} s")
    if peers.rank == 0:
        for rank in peers.told:
            peers.heard(rank, "ready")
        peers.send("go")
    else:
        peers.send("ready")
        peers.heard(0, "go")
    peers.limit(
        _JOINING,
        "word",
        f"has not joined MLX's group within {_JOINING:g} s: is a firewall between the machines, or does another "
        "program use the ports that `mlx.launch --starting-port` gives? `mlx-oss hosts check` says more",
    )


def connected(group: Any) -> Peers:
    """The other machines of MLX's group, when it is sure that the connections lead to the same processes.

    Args:
        group: MLX's group.

    Raises:
        EngineError: If they do not, or the others cannot be reached.
    """
    global _is_ready
    meet()
    if _peers is None:
        raise EngineError("MLX's group has several machines, and `mlx.launch` has not started them: start them by it")
    if not _is_ready:
        word = agreed(group, secrets.token_hex(16))
        if _peers.rank:
            _peers.send("word", word)
        for rank in _peers.told if _peers.rank == 0 else ():
            if _peers.heard(rank, "word", str) != [word]:
                reason = (
                    f"MLX has connected others than {_peers.names[rank]}: another run uses the same ports, so give "
                    "this one others, `mlx.launch --starting-port 34000`"
                )
                _peers.end_all(reason)
                raise EngineError(reason)
        _peers.listen()
        _is_ready = True
    return _peers


def part() -> None:
    """The machines go apart: the first one has all that it needs. The others wait for that."""
    if _peers is not None:
        if _peers.rank:
            _peers.heard(0, "end")
            _peers.close()
        else:
            _peers.close("end")


def fail(reason: str) -> None:
    """Tells the other machines, if there are any, that this one could not do its part, and why."""
    if _peers is not None:
        _peers.fail(reason)


@contextmanager
def errors_told() -> Iterator[None]:
    """Within the context, the others are told what fails on this machine. If one is gone, that is the error here."""
    try:
        yield
    except (RuntimeError, EngineError) as error:
        reason = _peers.why_it_failed() if _peers is not None else ""
        fail(str(error))
        if reason and reason not in str(error):
            raise EngineError(reason) from error
        raise
    except MlxOssError as error:
        fail(str(error))
        raise
    except KeyboardInterrupt:
        fail("it was interrupted")
        raise
    except Exception as error:
        fail(f"{type(error).__name__}: {error}")
        raise


@contextmanager
def ctrl_c_is_for_the_first() -> Iterator[None]:
    """Within the context, the machines after the first ignore Ctrl-C: a terminal sends it to all processes at once."""
    if not is_follower() or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


@contextmanager
def _signals_of_the_system(rank: int) -> Iterator[None]:
    """Lets the system act on Ctrl-C and SIGTERM: while MLX waits, no Python does. Ctrl-C is for the first machine."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    actions = {signal.SIGINT: signal.SIG_IGN if rank else signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, action) for number, action in actions.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def agreed(group: Any, text: str) -> str:
    """A text of the first machine, of at most 200 bytes, on all of them."""
    import mlx.core as mx
    import numpy as np

    data = np.zeros(200, np.uint8)
    data[: len(text)] = np.frombuffer(text.encode(), np.uint8)
    found = mx.distributed.all_gather(mx.array(data)[None], group=group)[0]
    mx.eval(found)
    return bytes(np.array(found)).rstrip(b"\0").decode()
