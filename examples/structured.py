"""Answers that programs can read, and a limit on how long the model reasons.

    python examples/structured.py [FOLDER]

Needs the extra `constrain`: pip install 'mlx-oss[constrain]'

Without FOLDER it runs on nano, which was not trained on JSON: its JSON has the right form but no meaning.
"""

import sys

import mlx_oss

SCHEMA = {
    "type": "object",
    "properties": {
        "capital": {"enum": ["Berlin", "London", "Paris", "Rome"]},
        "certain": {"type": "boolean"},
    },
    "required": ["capital", "certain"],
}


def main(folder: str | None) -> None:
    model, tokenizer = mlx_oss.load(folder)
    options = mlx_oss.SamplingOptions(temperature=0)

    session = mlx_oss.ChatSession(model, tokenizer, options=options, response_format=SCHEMA)
    parsed = session.ask("What is the capital of France?").parsed  # None if the answer was cut off
    print("JSON:", parsed["capital"], parsed["certain"])

    session = mlx_oss.ChatSession(model, tokenizer, options=options, response_format=r"\d+ legs?")
    print("text:", session.ask("How many legs does a spider have?").parsed)

    session = mlx_oss.ChatSession(model, tokenizer, options=options, max_reasoning_tokens=4)
    for event in session.send("What is the capital of France?"):
        match event:
            case mlx_oss.ReasoningDelta(text) | mlx_oss.AnswerDelta(text):
                print(text, end="")
            case mlx_oss.ReasoningStopped(reason):
                print(f" [stopped thinking: {reason}] ", end="")
    print()


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
