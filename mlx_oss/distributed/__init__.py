"""One model on several machines. The first one talks; the others compute what it tells them.

launched   finds the other processes
meeting    brings the machines together: who is who, and whether all run the same
channel    the connections over which the first machine tells the others what to do, and all notice who is gone
leader     the model of the first machine: each call is told to the others before it is computed
follower   the others: compute what they are told, until the first one ends

MLX moves the numbers (`mx.distributed`: over TCP, or Thunderbolt); `model.sharding` joins them. `mlx.launch` starts the
processes.
"""

from __future__ import annotations

import os

RANK = "MLX_RANK"  # set by mlx.launch


def is_launched() -> bool:
    """Whether `mlx.launch` has started this process, so that it may be one of several. Does not import MLX."""
    return RANK in os.environ


def is_follower() -> bool:
    """Whether another machine talks, and this one computes what it is told."""
    return os.environ.get(RANK, "0") != "0"
