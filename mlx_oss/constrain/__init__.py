"""What the model may write next: legal headers, arguments and answers that follow a schema, a bound on reasoning.

Knows the harmony format and token ids; nothing of models and MLX. Grammars need the extra `constrain` (llguidance).
"""

from mlx_oss.constrain.headers import LegalHeaders, legal_headers
from mlx_oss.constrain.repetition import RepetitionGuard
from mlx_oss.constrain.turn import Rules, TurnConstraint

__all__ = ["LegalHeaders", "RepetitionGuard", "Rules", "TurnConstraint", "legal_headers"]
