"""Researches a question in the files of a folder, offline, and writes a report that cites their lines.

    python examples/research.py NOTES QUESTION MODEL [FOLDER]

NOTES is the folder with text, HTML and PDF files, MODEL the name or folder of a gpt-oss. The report, the notes and a
trace of everything that happens go to FOLDER, or else to `research`. The same command goes on where it was stopped.
"""

import sys

import mlx_oss
from mlx_oss.research import Research, described
from mlx_oss.tools import BrowserTool


def tell(line: object) -> None:
    if isinstance(line, dict) and (text := described(line)):
        print(text, file=sys.stderr)


def main(notes: str, question: str, model: str | None = None, folder: str = "research") -> None:
    browser = BrowserTool(notes)
    if model is None:
        sys.exit("nano cannot browse: give the name or folder of a gpt-oss, such as 20b")
    report = Research(*mlx_oss.load(model), question, browser, folder, progress=tell).run()
    print(report.markdown)
    for claim in report.flagged:
        print(f"not supported: {claim.text} ({'; '.join(claim.problems)})", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4, 5):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
