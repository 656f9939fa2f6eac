"""How much a research may take: rounds, tokens, time, and how long its prompts may be. Knows nothing of how it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mlx_oss.errors import OptionError, quoted

_LEAST = {"context": 2048}
LONGEST = 10**9  # of any of them; a thread can wait for so many seconds


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a research. When one is reached, the report is written from what has been found until then.

    Attributes:
        questions: Into how many questions the plan may divide it; later, as many may be added at a time.
        rounds: How many times the model looks for something, each time in a fresh session.
        calls: How many times it may search, open or find in a round.
        tokens: How many tokens it may generate before the report.
        seconds: How long it may take before the report, all runs of it together.
        context: Tokens of the longest prompt with its answer. Notes are taken before it is full.

    Raises:
        OptionError: If one of them is no whole number, or too small.
    """

    questions: int = 6
    rounds: int = 12
    calls: int = 16
    tokens: int = 200_000
    seconds: int = 3600
    context: int = 32_768

    def __post_init__(self) -> None:
        for each in fields(self):
            value, least = getattr(self, each.name), _LEAST.get(each.name, 1)
            if type(value) is not int or not least <= value <= LONGEST:
                raise OptionError(
                    f"{each.name} is {quoted(value)}, expected a whole number from {least:,} to {LONGEST:,}"
                )

    def as_dict(self) -> dict[str, int]:
        """The bounds by name, for a line of the trace."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Bounds:
        """The bounds of a line of the trace. Raises OptionError if they are none."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})
