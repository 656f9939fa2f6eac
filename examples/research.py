"""Answers a question from the text, HTML and PDF files of a folder, offline, and prints the lines that it cites.

    python examples/research.py NOTES QUESTION [MODEL]

NOTES is the folder, MODEL the folder of a gpt-oss. Without MODEL, nano answers. nano was not trained to use a
browser, so it answers without looking at the notes.
"""

import sys

import mlx_oss
from mlx_oss.tools import BrowserTool

INSTRUCTIONS = "Answer from the user's notes: search and open them with the browser, and cite the lines you rely on."


def main(notes: str, question: str, folder: str | None = None) -> None:
    if folder is None:
        print("nano cannot browse; give the folder of a gpt-oss", file=sys.stderr)
    session = mlx_oss.ChatSession(
        *mlx_oss.load(folder), instructions=INSTRUCTIONS, reasoning_effort="high", tools=[BrowserTool(notes)]
    )
    for event in session.send(question):
        match event:
            case mlx_oss.ToolCall():
                print(f"[{event.name} {event.arguments}]", file=sys.stderr)
            case mlx_oss.AnswerDelta(text):
                print(text, end="", flush=True)
            case mlx_oss.Finished():
                print()
                for cited in event.citations:
                    print(f"\n{cited.source}, lines {cited.first_line} to {cited.last_line}:\n{cited.text}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
