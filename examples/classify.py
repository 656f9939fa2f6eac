"""Classifies lines of text: a few examples teach the model, and its answers can only be one of the labels.

    printf 'I laughed a lot.\nI left early.\n' | python examples/classify.py [FOLDER]

Needs the extra `constrain`. Several lines are classified at the same time. nano has the form of the answers right, but
was not trained to classify.
"""

import sys
from collections.abc import Iterable, Iterator

import mlx_oss

EXAMPLES = {"A wonderful evening!": "positive", "What a waste of time.": "negative", "It has two parts.": "neutral"}


def classify(model: mlx_oss.Engine, tokenizer: mlx_oss.Tokenizer, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields each line with its label."""
    messages = [{"role": "system", "content": "Say how the writer feels about it."}]
    for text, label in EXAMPLES.items():
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": label}]
    labels = "|".join(EXAMPLES.values())
    session = mlx_oss.ChatSession(
        model, tokenizer, messages=messages, reasoning_effort="none", response_format=f"({labels})"
    )
    texts = list(lines)
    session.options = mlx_oss.SamplingOptions(temperature=0)
    for reply, text in zip(mlx_oss.ask_many(session, texts), texts, strict=True):
        yield reply.text, text


if __name__ == "__main__":
    try:
        loaded = mlx_oss.load(sys.argv[1] if len(sys.argv) > 1 else None)
        for label, line in classify(*loaded, filter(str.strip, sys.stdin)):
            print(label, line.strip(), sep="\t")
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
