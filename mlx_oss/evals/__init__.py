"""How good a copy of the model is. Knows nothing of HTTP or terminals.

comparison        how far a copy's predictions of the next token are from another's: `compare`
  divergence        the arithmetic of that, for one token
  passages          the texts: conversations as the model reads them
  stored_logits     predictions in a file
evaluation        questions, whose answers are judged: `evaluate`
  questions         what is asked, and how it stands in a file
  checks            how an answer is judged; `python_check` does it by code in a sandbox
  attempts          asks many questions at the same time
  results           the file of results, which a killed evaluation goes on with
  statistics        a share, and how well it is known
  report            the results in Markdown
inspect_provider  the models for inspect-ai, in this process

Its names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_oss.evals.attempts import Attempt, EvalOptions
    from mlx_oss.evals.checks import Checks, ExpectedCall
    from mlx_oss.evals.comparison import Comparison, Figures, compare, store
    from mlx_oss.evals.evaluation import evaluate
    from mlx_oss.evals.passages import Passage, bundled_conversations, read_conversations, read_text
    from mlx_oss.evals.questions import GivenTool, Question, QuestionTurn
    from mlx_oss.evals.report import Evaluation
    from mlx_oss.evals.statistics import Score

_NAMES = {  # the public names of each module
    "attempts": "Attempt EvalOptions",
    "checks": "Checks ExpectedCall",
    "comparison": "Comparison Figures compare store",
    "evaluation": "evaluate",
    "passages": "Passage bundled_conversations read_conversations read_text",
    "questions": "GivenTool Question QuestionTurn",
    "report": "Evaluation",
    "statistics": "Score",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Attempt",
    "Checks",
    "Comparison",
    "EvalOptions",
    "Evaluation",
    "ExpectedCall",
    "Figures",
    "GivenTool",
    "Passage",
    "Question",
    "QuestionTurn",
    "Score",
    "bundled_conversations",
    "compare",
    "evaluate",
    "read_conversations",
    "read_text",
    "store",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mlx_oss.evals' has no attribute {name!r}")
    value: object = getattr(import_module(f"mlx_oss.evals.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
