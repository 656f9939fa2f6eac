"""Restricts what the model may write: legal headers, schemas of arguments and answers, a limit on reasoning.

Knows the harmony format and token ids; nothing of models and MLX. Grammars need the extra `constrain` (llguidance).

    outputs     Guards and OutputConstraints: what a session restricts
    turn        Rules and TurnConstraint: the allowed ids at each token of a turn
    headers     the legal message headers as a state machine
    grammar     JSON schemas and regular expressions, token by token
    answer      the format of the answer: from the app's `response_format`, into the prompt, and parsed
    repetition  detects a model that repeats itself
"""

from mlx_oss.constrain.grammar import Grammar
from mlx_oss.constrain.headers import legal_headers
from mlx_oss.constrain.outputs import Guards, OutputConstraints, ToolChoice, kwargs_from_saved
from mlx_oss.constrain.repetition import RepetitionGuard
from mlx_oss.constrain.turn import Parsed, Rules, TurnConstraint, final_header

__all__ = [
    "Grammar",
    "Guards",
    "OutputConstraints",
    "Parsed",
    "RepetitionGuard",
    "Rules",
    "ToolChoice",
    "TurnConstraint",
    "final_header",
    "kwargs_from_saved",
    "legal_headers",
]
