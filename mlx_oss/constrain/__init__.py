"""What the model may write next: legal headers, arguments and answers that follow a schema, a bound on reasoning.

Knows the harmony format and token ids; nothing of models and MLX. Grammars need the extra `constrain` (llguidance).
"""

from mlx_oss.constrain.grammar import Grammar
from mlx_oss.constrain.headers import legal_headers
from mlx_oss.constrain.outputs import Guards, OutputConstraints, kwargs_from_saved
from mlx_oss.constrain.repetition import RepetitionGuard
from mlx_oss.constrain.turn import Rules, TurnConstraint, final_header

__all__ = [
    "Grammar",
    "Guards",
    "OutputConstraints",
    "RepetitionGuard",
    "Rules",
    "TurnConstraint",
    "final_header",
    "kwargs_from_saved",
    "legal_headers",
]
