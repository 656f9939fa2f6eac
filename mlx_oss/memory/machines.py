"""Plans a model that several machines compute together: what each holds, and the arithmetic of a step of decoding.

Nothing is measured: `Step` states what it assumes. Knows nothing of how the machines are reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_oss.backend import device
from mlx_oss.backend.machine import Machine
from mlx_oss.config import ModelConfig
from mlx_oss.memory.estimates import format_bytes
from mlx_oss.memory.macs import MEMORY
from mlx_oss.memory.plan import Plan, plan_for
from mlx_oss.shards import Rank, check_size
from mlx_oss.weights.arrays import DTYPE_NAMES
from mlx_oss.weights.layouts.checkpoint import Checkpoint
from mlx_oss.weights.names import is_expert
from mlx_oss.weights.placements import EMBEDDING, Placement, place
from mlx_oss.weights.sharded import sharded

# How the machines are connected: seconds of latency of a hop, and bytes a second. As others report: TCP over
# Thunderbolt 300 microseconds, RDMA over Thunderbolt 5 less than 50; the bandwidths are 10 and 40 Gbit/s.
LINKS = {"TCP over Thunderbolt": (300e-6, 1.25e9), "RDMA over Thunderbolt 5": (50e-6, 5e9)}
_MOST = 32  # machines that are tried


@dataclass(frozen=True, slots=True)
class Step:
    """What computing one token takes, as arithmetic that is not measured on Macs.

    Attributes:
        read_bytes: Weights that each machine reads from its memory.
        gathers: How often all machines wait for each other.
        gathered_bytes: What each machine receives in all gathers.
        read_seconds: Reading from memory, at MEMORY bytes a second.
        wait_seconds: Waiting in gathers, by the connection: a key of LINKS.
    """

    read_bytes: int
    gathers: int
    gathered_bytes: int
    read_seconds: float
    wait_seconds: dict[str, float]

    def tokens_per_second(self, link: str) -> float:
        """Tokens a second at most, if reading and waiting do not overlap."""
        return 1 / (self.read_seconds + self.wait_seconds[link])


@dataclass(frozen=True, slots=True)
class Together:
    """How several machines hold a model.

    Attributes:
        plans: The plan of each machine, with the context that all of them have room for.
        alone: The context that each machine would have room for if all were as large.
        step: The arithmetic of a step of decoding.
    """

    plans: tuple[Plan, ...]
    alone: tuple[int, ...]
    step: Step

    @property
    def context(self) -> int:
        """Tokens of context."""
        return self.plans[0].context

    @property
    def lacking(self) -> list[int]:
        """The numbers of the machines whose part does not fit. The engine needs all of it in memory."""
        return [number for number, plan in enumerate(self.plans) if plan.whole_bytes > plan.memory]

    @property
    def limiting(self) -> list[int]:
        """The numbers of the machines because of which the others have a shorter context than they could have."""
        return [n for n, tokens in enumerate(self.alone) if tokens == min(self.alone) < max(self.alone)]


def plan_together(
    checkpoint: Checkpoint,
    machines: Sequence[Machine],
    *,
    context: int | None = None,
    chunk: int | None = None,
    dtype: str = "auto",
) -> Together:
    """Plans a model for machines that compute it together.

    Args:
        checkpoint: The model.
        machines: The machines, the first one first.
        context: As for `plan_for`.
        chunk: As for `plan_for`.
        dtype: As for `plan_for`.

    Raises:
        OptionError: If the model cannot be divided between so many machines, or an argument is out of range.
    """
    config, size = checkpoint.config, len(machines)
    check_size(config, size)
    dtypes = [_dtype(machine, dtype) for machine in machines]
    placed = [
        sharded(_placed(checkpoint, machine, name), config, Rank(number, size))
        for number, (machine, name) in enumerate(zip(machines, dtypes, strict=True))
    ]

    def plans(context: int | None, chunk: int | None) -> list[Plan]:
        return [
            plan_for(checkpoint, own, context=context, chunk=chunk, dtype=name, machine=machine, machines=size)
            for own, name, machine in zip(placed, dtypes, machines, strict=True)
        ]

    first = plans(context, chunk)
    least = min(plan.context for plan in first)
    agreed = plans(least, min(plan.chunk for plan in first))
    itemsize = device.activation_dtype(dtypes[0]).size
    return Together(tuple(agreed), tuple(plan.context for plan in first), step_of(config, placed[0], size, itemsize))


def smallest_number(
    checkpoint: Checkpoint,
    machine: Machine,
    *,
    context: int | None = None,
    chunk: int | None = None,
    dtype: str = "auto",
) -> int | None:
    """The smallest number of such machines that the model fits into; None if there is none up to 32."""
    name, config = _dtype(machine, dtype), checkpoint.config
    whole = _placed(checkpoint, machine, name)
    for size in _sizes(config):
        own = sharded(whole, config, Rank(0, size))
        plan = plan_for(checkpoint, own, context=context, chunk=chunk, dtype=name, machine=machine, machines=size)
        if plan.slots is None:
            return size
    return None


def _sizes(config: ModelConfig) -> list[int]:
    numbers = (
        config.num_key_value_heads,
        config.num_attention_heads,
        config.hidden_size,
        config.intermediate_size,
        config.vocab_size,
    )
    return [size for size in range(1, _MOST + 1) if not any(number % size for number in numbers)]


def _dtype(machine: Machine, dtype: str) -> str:
    """The dtype that a machine computes in: one with a GPU in bfloat16, whatever this one has."""
    return "bfloat16" if dtype == "auto" and machine.gpu else dtype


def _placed(checkpoint: Checkpoint, machine: Machine, dtype: str) -> tuple[Placement, ...]:
    return place(checkpoint, DTYPE_NAMES[device.activation_dtype(dtype)], upcasts=not machine.gpu)


def step_of(config: ModelConfig, placements: Sequence[Placement], size: int, itemsize: int) -> Step:
    """The arithmetic of a step.

    Each layer gathers what the heads have found, the output of attention, the hidden values of its experts and their
    outputs. Before the layers, the embedding is gathered; after them, the hidden state and the logits.

    Args:
        config: The config of the model.
        placements: The part of the first machine.
        size: How many machines there are.
        itemsize: Bytes of an activation.
    """
    sizes = dict.fromkeys(("experts", "embedding", "rest"), 0)
    for placement in placements:
        kind = "embedding" if placement.module == EMBEDDING else "experts" if is_expert(placement.module) else "rest"
        sizes[kind] += placement.nbytes
    read = sizes["rest"] + sizes["experts"] * config.num_experts_per_tok // config.num_local_experts
    of_layer = config.num_attention_heads * config.head_dim + config.hidden_size
    of_layer += config.num_experts_per_tok * (config.intermediate_size + config.hidden_size)
    divided = config.num_hidden_layers * of_layer + config.vocab_size  # each machine has a part
    copied = 2 * config.hidden_size  # each has all of it: the embedding, and the last hidden state
    gathers = gathers_of(config)
    gathered = itemsize * (size - 1) * (divided // size + copied)
    hops = size - 1  # of a ring
    waits = {link: gathers * hops * latency + gathered / speed for link, (latency, speed) in LINKS.items()}
    return Step(read, gathers, gathered, read / MEMORY, waits)


def gathers_of(config: ModelConfig) -> int:
    """How often all machines wait for each other in a step; `step_of` says for what."""
    return 4 * config.num_hidden_layers + 3


def assumptions() -> str:
    """What the arithmetic of a step assumes, as a sentence."""
    links = " and ".join(
        f"{name} takes {1e6 * latency:.0f} microseconds a hop and moves {speed / 1e9:g} GB/s"
        for name, (latency, speed) in LINKS.items()
    )
    return f"This is arithmetic, not measured on Macs: memory reads {format_bytes(int(MEMORY))}/s; {links}"
