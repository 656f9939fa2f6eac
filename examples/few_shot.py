"""Few-shot: answers that the model never wrote show it what to answer like.

python examples/few_shot.py [FOLDER]
"""

import sys

import mlx_oss

EXAMPLES = [
    {"role": "system", "content": "Answer with a single word."},
    {"role": "user", "content": "What is the capital of Spain?"},
    {"role": "assistant", "content": "Madrid"},
    {"role": "user", "content": "What is the opposite of big?"},
    {"role": "assistant", "content": "Small"},
]


def main(model: mlx_oss.Engine, tokenizer: mlx_oss.Tokenizer) -> None:
    session = mlx_oss.ChatSession(model, tokenizer, messages=EXAMPLES, reasoning_effort="low")
    for question in ("What is the capital of France?", "What is the opposite of cold?"):
        print(question, session.ask(question, options=mlx_oss.SamplingOptions(temperature=0)).text)
        session.undo()  # so that each question follows the examples only


if __name__ == "__main__":
    try:
        main(*mlx_oss.load(sys.argv[1] if len(sys.argv) > 1 else None))
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
