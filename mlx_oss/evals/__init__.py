"""How good a copy of the model is. Knows nothing of HTTP or terminals.

comparison  how far a copy's next-token probabilities are from another's, on conversations
"""
