"""Several answers to one question, ranked by how likely the model found them; the conversation continues with the best.

python examples/n_best.py [FOLDER]
"""

import sys

import mlx_oss


def score(reply: mlx_oss.Reply) -> float:
    """The mean log-probability of the answer's tokens: near 0 if the model was sure of each."""
    return sum(token.logprob for token in reply.logprobs) / max(len(reply.logprobs), 1)


def main(model: mlx_oss.Engine, tokenizer: mlx_oss.Tokenizer) -> None:
    options = mlx_oss.SamplingOptions(temperature=1.2, seed=1, top_logprobs=2)
    session = mlx_oss.ChatSession(model, tokenizer, reasoning_effort="low", options=options, logprobs=True)
    reply = session.ask("Tell me about the sea.", n=4, max_tokens=100)
    for choice in sorted(reply.choices, key=score, reverse=True):
        print(f"{score(choice):6.2f}  {choice.text}")
    best = max(reply.choices, key=score)
    session.choose(reply.choices.index(best))
    doubt = min(best.logprobs, key=lambda token: token.logprob, default=None)
    if doubt is not None:
        others = ", ".join(f"{other.token!r} {other.logprob:.2f}" for other in doubt.top_logprobs)
        print(f"least sure of {doubt.token!r}; the likeliest were {others}")


if __name__ == "__main__":
    try:
        main(*mlx_oss.load(sys.argv[1] if len(sys.argv) > 1 else None))
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
