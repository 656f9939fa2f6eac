"""Which rows of each matrix a machine holds, where several compute one model together.

Every matrix is divided by its output rows, and the biases with it: so each output is added up on one machine, in the
order in which a single one would, and its bits are the same. Rows that belong together stay together: of q, k and v
each machine has the heads of its own, of gate and up the same rows. Norms and the routers, which are small, are whole
everywhere. Knows neither MLX nor files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlx_oss.config import ModelConfig
from mlx_oss.errors import OptionError

Blocks = tuple[int, ...]  # rows that lie one after the other; each block is divided by itself


@dataclass(frozen=True, slots=True)
class Rank:
    """One of the machines.

    Attributes:
        number: From 0 on.
        size: How many machines there are.
    """

    number: int = 0
    size: int = 1

    def ranges(self, blocks: Blocks) -> list[tuple[int, int]]:
        """First row, and row after the last one, of each block that this machine holds."""
        found, start = [], 0
        for rows in blocks:
            own = rows // self.size
            found.append((start + self.number * own, start + (self.number + 1) * own))
            start += rows
        return found


def blocks_of(module: str, suffix: str, rows: int, config: ModelConfig, rows_alternate: bool) -> Blocks | None:
    """How the rows of a parameter are divided; None if every machine holds all of it.

    Args:
        module: Path of its module in the model, such as "layers.0.self_attn.qkv_proj".
        suffix: Its name within the module, such as "weight".
        rows: How many rows it has, of each expert if it has experts.
        config: The config of the model.
        rows_alternate: Whether rows of gate and up alternate. Otherwise all rows of gate come first.
    """
    name = module.rpartition(".")[2]
    if name == "qkv_proj":
        return tuple(heads * config.head_dim for heads in config.qkv_heads)
    if name == "gate_up_proj" and not rows_alternate:
        return (rows // 2, rows // 2)
    is_whole = name == "router" or name.endswith("norm")
    return None if is_whole else (rows,)


def owners(blocks: Blocks, size: int, rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """For each row: which machine has it, and the number of the row there."""
    for row in rows:
        start = before = 0
        for block in blocks:
            own = block // size
            if row < start + block:
                rank, rest = divmod(row - start, own)
                yield rank, before + rest
                break
            start, before = start + block, before + own


def check_size(config: ModelConfig, size: int) -> None:
    """Raises OptionError if a model cannot be divided between so many machines."""
    numbers = {
        "key-value heads": config.num_key_value_heads,
        "query heads": config.num_attention_heads,
        "hidden dimensions": config.hidden_size,
        "dimensions of an expert": config.intermediate_size,
        "tokens": config.vocab_size,
    }
    for what, number in numbers.items():
        if number % size:
            fitting = [n for n in range(2, 33) if not any(other % n for other in numbers.values())]
            could = ", ".join(map(str, fitting))
            raise OptionError(
                f"the model has {number:,} {what}, which cannot be divided between {size} machines: "
                + (f"use {could}" if could else "it runs on one machine only")
            )
