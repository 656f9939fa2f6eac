"""What of a machine decides how much of a model fits: its memory, and whether a GPU computes.

Pure arithmetic. Knows nothing of MLX and of the machine that it runs on: `host_memory.this_machine` reads that.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30  # the unit in which the memory of Macs is specified
# Fraction of what Metal recommends. Beyond it MLX returns all freed memory to the system, and every operation has to
# allocate again.
_USABLE = 0.95
_LEAST_TO_WIRE = 32 * GIB  # smaller Macs have frozen when a model was wired (ml-explore/mlx 3186, mlx-lm 883)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan needs to know of a machine. All sizes are in bytes.

    Attributes:
        limit: What a process can use before the system swaps or kills it.
        gpu: True if a GPU computes.
        mac_memory: Memory of a Mac whose GPU computes; None on every other machine.
    """

    limit: int
    gpu: bool = False
    mac_memory: int | None = None

    def wired(self, weights: int) -> int:
        """How many bytes of a model's weights may be wired while it computes; `weights` of them are in memory.

        0 except on Macs with at least 32 GB whose GPU computes.
        """
        return min(weights, self.limit) if (self.mac_memory or 0) >= _LEAST_TO_WIRE else 0


def mac(memory: int, recommended: int | None = None) -> Machine:
    """A Mac whose GPU computes.

    The limit is 95 % of what Metal recommends, and leaves at least `reserve` to the system, which matters where the
    recommendation was raised (sysctl iogpu.wired_limit_mb).

    Args:
        memory: Its memory in bytes.
        recommended: Bytes that Metal recommends for the GPU. None: as much as macOS usually recommends.
    """
    recommended = usually_recommended(memory) if recommended is None else recommended
    return Machine(min(int(_USABLE * recommended), memory - reserve(memory)), gpu=True, mac_memory=memory)


def reserve(memory: int) -> int:
    """Bytes of a Mac's memory that a model never uses: 20 %, at least 4 GB, but at most 35 %."""
    return min(max(4 * GIB, memory // 5), memory * 35 // 100)


def usually_recommended(memory: int) -> int:
    """The part of a Mac's memory that macOS recommends for the GPU (`recommendedMaxWorkingSetSize`), in bytes.

    It is two thirds, and three quarters from 36 GB on. Source: logs of llama.cpp for 16, 32, 36, 64 and 96 GB. Recent
    macOS versions allow more (84 % of 128 GB), so this estimate is conservative.
    """
    return memory * 3 // 4 if memory >= 36 * GIB else memory * 2 // 3
