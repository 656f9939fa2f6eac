"""One model on several machines. The first one talks; the others compute what it tells them.

places     where the machines are, as they were told
roll_call  the machines meet before MLX waits for them: who has come, and with which versions
channel    their connections, over which each tells what it has to say, and notices who is gone
peers      the other machines, as one of them sees them: what they say, who is gone and why, and how all are told
watch      has them watched by a process of its own, `watcher`, while MLX holds this one
launched   all of this in order, until MLX's group is there
meeting    whether all have the same model, and room for it
leader     the model of the first machine: each call is told to the others before it is computed
follower   the others: compute what they are told, until the first one ends

MLX moves the numbers (`mx.distributed`: over TCP, or Thunderbolt); `model.sharding` joins them. `mlx.launch` starts the
processes.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["group"]

RANK = "MLX_RANK"  # set by mlx.launch


def is_launched() -> bool:
    """Whether `mlx.launch` has started this process, so that it may be one of several. Does not import MLX."""
    return RANK in os.environ


def is_follower() -> bool:
    """Whether another machine talks, and this one computes what it is told."""
    return os.environ.get(RANK, "0") != "0"


def group() -> Any:
    """MLX's group of the machines on which `mlx.launch` has started this program, for `mlx_oss.load`.

    Returns:
        The group; None if there is one machine only, or the program was not started by `mlx.launch`.

    Raises:
        EngineError: If a machine does not come within some seconds, cannot be reached, or has another version.
    """
    from mlx_oss.distributed import launched

    return launched.group()
