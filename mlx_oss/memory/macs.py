"""What the released models do on Macs of each size, as arithmetic: nothing is measured, and nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from mlx_oss.backend.machine import GIB, Machine, mac
from mlx_oss.memory.plan import Plan, plan_for
from mlx_oss.weights.layouts.checkpoint import Checkpoint, released
from mlx_oss.weights.layouts.releases import RELEASES
from mlx_oss.weights.placements import Placement, place

SIZES = (8, 16, 24, 32, 48, 64, 96, 128)  # GB of memory, as Macs are sold
CONTEXT = 8192  # tokens
DISK, MEMORY = 3e9, 100e9  # bytes a second: an SSD's, and the memory's of a base M4
# Seconds a layer waits for the GPU to say which experts it needs, if they may be on disk: 0.5 to 0.8 ms
# (ml-explore/mlx-lm 1438).
READ_BACK = 0.65e-3


@dataclass(frozen=True, slots=True)
class Expectation:
    """What to expect from a model on a Mac.

    Attributes:
        plan: How it is held.
        read: Bytes of experts that are read from disk for a token, if every expert is as likely as any other. This is
            the worst case, because those in memory are the ones used most.
        tokens_per_second: Tokens generated in a second at most, if reading and computing do not overlap: what
            reading the weights from memory and disk, and the waits for the router, leave.
    """

    plan: Plan
    read: float
    tokens_per_second: float


def plan_released(name: str, machine: Machine, *, bits: int | None = None, context: int | None = CONTEXT) -> Plan:
    """Plans a released model for a machine, in its usual dtype, without files. `name` and `bits` as for `released`."""
    checkpoint, placements = _placed(name, bits, machine.gpu)
    dtype = "bfloat16" if machine.gpu else "float32"
    return plan_for(checkpoint, placements, context=context, dtype=dtype, machine=machine)


@cache
def _placed(name: str, bits: int | None, gpu: bool) -> tuple[Checkpoint, tuple[Placement, ...]]:
    """A released model and its parameters, as a GPU or the CPU backend holds them."""
    checkpoint = released(name, bits)
    return checkpoint, place(checkpoint, "BF16" if gpu else "F32", upcasts=not gpu)


def expected(name: str, machine: Machine, *, bits: int | None = None) -> Expectation:
    """What to expect from a released model on a machine with CONTEXT, DISK and MEMORY."""
    made = plan_released(name, machine, bits=bits)
    config = _placed(name, bits, machine.gpu)[0].config
    experts, active = made.weights["experts"], config.num_experts_per_tok / made.experts
    rest = sum(made.weights.values()) - experts - made.weights["embedding"]
    held = 1.0 if made.slots is None else made.slots / made.experts
    read = (1 - held) * active * experts
    seconds = (rest + active * experts) / MEMORY + read / DISK
    if made.slots is not None:
        seconds += config.num_hidden_layers * READ_BACK
    return Expectation(made, read, 1 / seconds)


def table() -> str:
    """A Markdown table of all SIZES: how much of each released model is in memory, and its tokens a second."""
    names = tuple(RELEASES)
    rows = [("memory of the Mac", *names), ("---",) * (1 + len(names))]
    rows += [(f"{size} GB", *(_cell(name, mac(size * GIB)) for name in names)) for size in SIZES]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(name: str, machine: Machine) -> str:
    as_released, as_q8 = expected(name, machine), expected(name, machine, bits=8)
    made = as_released.plan
    if made.verdict == "too small":
        return "does not fit"
    if made.slots is None:
        return "all in memory"
    cell = (
        f"{made.slots} of {made.experts} experts in memory: about {as_released.tokens_per_second:.0f} tokens a second"
    )
    if as_q8.tokens_per_second > 1.3 * as_released.tokens_per_second:
        cell += f" ({as_q8.tokens_per_second:.0f} with q8)"
    return cell
