"""How well a score is known: a share of right answers, and its 95 % confidence interval.

The interval is Wilson's (E. B. Wilson 1927, JASA 22:209-212), which holds what it promises also for few questions and
for shares near 0 and 1 (Brown, Cai and DasGupta 2001, Statistical Science 16:101-133). Several answers to one question
are no independent evidence. So the number of answers in it is the effective one, that of independent answers with the
same variance: p (1 - p) / v, where v is the variance of the mean, clustered by question (E. Miller 2024, arXiv
2411.00640; for the combination C. Franco et al. 2019, J. Survey Statistics and Methodology 7:334-364). It lies between
the number of questions and that of answers; with one answer for each question it is Wilson's interval itself.

Knows nothing of questions and files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_Z = 1.959963984540054  # of the normal distribution, 97.5 %


@dataclass(frozen=True, slots=True)
class Score:
    """How many answers are right.

    Attributes:
        questions: How many questions there are.
        samples: How many times each was asked.
        right: How many answers are right.
        low: The lower end of the confidence interval of `pass_at_1`.
        high: Its upper end.
    """

    questions: int
    samples: int
    right: int
    low: float
    high: float

    @property
    def pass_at_1(self) -> float:
        """The share of right answers: how likely one answer is right."""
        return self.right / (self.questions * self.samples)


def score(right: Iterable[int], samples: int) -> Score:
    """The score of some questions.

    Args:
        right: For each question, how many of its answers are right; at least one question.
        samples: How many answers each question has.
    """
    questions = total = squares = 0
    for count in right:
        questions, total, squares = questions + 1, total + count, squares + count * count
    answers = questions * samples
    share = total / answers
    between = (squares / questions - (total / questions) ** 2) / samples**2  # variance of the questions' own shares
    effective = float(questions)
    if 0 < total < answers and questions > 1:
        effective = min(max(questions * share * (1 - share) / between, questions), answers) if between > 0 else answers
    low, high = wilson(share, effective)
    return Score(questions, samples, total, low, high)


def wilson(share: float, count: float) -> tuple[float, float]:
    """Wilson's 95 % confidence interval.

    Args:
        share: The share that was observed.
        count: In how many independent observations.
    """
    weight = _Z * _Z / count
    middle = (share + weight / 2) / (1 + weight)
    width = _Z / (1 + weight) * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    return max(0.0, middle - width) if share else 0.0, min(1.0, middle + width) if share < 1 else 1.0
