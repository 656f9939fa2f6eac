"""Texts that go with a question: from files, from stdin, and from files that a typed question mentions with an @.

Each text is put before the question, below its name and between two rows of backticks:

    notes.txt:
    ```
    The sky is green.
    ```

    Which colour is the sky?

Knows nothing of sessions.
"""

from __future__ import annotations

import os
import re
import select
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlx_oss.distributed import is_launched
from mlx_oss.errors import OptionError, quoted
from mlx_oss.files import TEXT_BYTES, can_exist, expanded, read_input, read_up_to
from mlx_oss.terminal import say

STDIN = "-"  # the name of a file that stands for stdin
_PATIENCE = 3.0  # seconds after which the user is told that stdin is waited for
_TOO_LONG = f"the attached texts have more than {TEXT_BYTES:,} characters together: attach fewer"
_BLOCK = re.compile(r"[^\n]+:\n(`{3,})\n.*?\n\1\n\n", re.DOTALL)
_MENTION = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|(\S+))')
_PUNCTUATION = ".,;:!?)]}'\""
_LIKE_A_FILE = re.compile(r"[^\n()]*(/[^\n()]*|\.\w{1,4})")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A text that goes with a question.

    Attributes:
        name: Where it comes from.
        text: The text, without line breaks at the end.
    """

    name: str
    text: str


def attached(path: str) -> Attachment:
    """The text of a file, or of stdin for "-". Raises OptionError if it cannot be read, is too long or no text."""
    if path == STDIN:
        return Attachment("stdin", stdin_text())
    try:
        return Attachment(path, _decoded(read_input(expanded(path), TEXT_BYTES), path))
    except (OSError, ValueError) as error:  # ValueError: an impossible path
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{path} cannot be read ({reason}): give a text file") from None


def all_attached(paths: Iterable[str]) -> list[Attachment]:
    """The texts of several files. Raises OptionError as `attached`, or if they are too long together."""
    texts: list[Attachment] = []
    for path in paths:
        texts.append(attached(path))
        if sum(len(text.text) for text in texts) > TEXT_BYTES:  # before more of them are read
            raise OptionError(_TOO_LONG)
    return texts


def stdin_has_text() -> bool:
    """True if stdin is a pipe or a file: something may have been handed to this process. A device has no text."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or no file
        return False
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def stdin_text() -> str:
    """All that stdin has. Raises OptionError if it cannot be read, is endless or no text in UTF-8."""
    if sys.stdin is None:
        return ""
    if is_launched():
        raise OptionError(
            "`mlx.launch` hands on stdin without its end: give the question as an argument, or name a file"
        )
    try:
        if sys.stdin.isatty():
            say("type the text; Ctrl-D on a line of its own ends it")
        elif not select.select([sys.stdin], [], [], _PATIENCE)[0]:
            say("waiting for text on stdin; `< /dev/null` gives none")
    except (OSError, ValueError):
        pass  # no file, so there is nothing to wait for
    try:
        binary = getattr(sys.stdin, "buffer", None)
        if binary is None:
            return _decoded(sys.stdin.read(TEXT_BYTES + 1).encode(errors="surrogateescape"), "stdin")
        return _decoded(read_up_to(binary, TEXT_BYTES, "stdin"), "stdin")
    except OSError as error:  # such as stdin that was opened for writing
        raise OptionError(
            f"stdin cannot be read ({error.strerror or error}): give the question as an argument"
        ) from None


def _decoded(content: bytes, name: str) -> str:
    if len(content) > TEXT_BYTES:
        raise OptionError(f"{name} has more than {TEXT_BYTES:,} bytes: give a shorter text")
    if b"\0" in content:
        raise OptionError(f"{name} is not text, or in UTF-16, because it has NUL characters: give text in UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise OptionError(
            f"{name} is not text in UTF-8: `iconv -f ENCODING -t UTF-8` converts text in another encoding"
        ) from None
    return text.rstrip("\r\n")


def with_attachments(question: str, attachments: Iterable[Attachment]) -> str:
    """The question below the attached texts. Raises OptionError if they are too long together."""
    blocks = []
    for attachment in attachments:
        longest = max(map(len, re.findall("`+", attachment.text)), default=0)
        fence = "`" * max(3, longest + 1)
        blocks.append(f"{' '.join(attachment.name.split())}:\n{fence}\n{attachment.text}\n{fence}\n\n")
    whole = "".join([*blocks, question])
    if len(whole) > TEXT_BYTES:
        raise OptionError(_TOO_LONG)
    return whole


def without_attachments(text: str) -> str:
    """The question itself, of what `with_attachments` returned."""
    end = 0
    while block := _BLOCK.match(text, end):
        end = block.end()
    return text[end:]


def mentioned(text: str) -> tuple[list[str], list[str]]:
    """The files that a typed text mentions, such as "What is in @notes.txt?".

    Only an @ at the beginning of a word counts, and only if there is such a file. So addresses and decorators stay what
    they are. A name with spaces is put in quotes: @"my notes.txt".

    Returns:
        The files, and mentions that look like one but name none.
    """
    files, others = [], []
    for mention in _MENTION.finditer(text):
        candidates = [mention[1]] if mention[1] else _candidates(mention[2])
        file = next((path for path in candidates if can_exist(path) and os.path.exists(expanded(path))), None)
        if file is None or os.path.isdir(expanded(file)):
            if file or (_LIKE_A_FILE.fullmatch(candidates[-1]) and "\n" not in text.strip()):
                others.append(file or candidates[-1])
        elif file not in files:
            files.append(file)
    return files, others


def _candidates(word: str) -> Sequence[str]:
    """A word as a name, also without the punctuation that may follow it."""
    return list(dict.fromkeys([word, word.rstrip(_PUNCTUATION)]))


def told(attachments: Iterable[Attachment]) -> str:
    """A line that says what goes with the question."""
    texts = (f"{attachment.name} ({len(attachment.text):,} characters)" for attachment in attachments)
    return f"[attached: {', '.join(texts)}]"


def not_attached(names: Sequence[str]) -> str:
    """A line that says which mentions are no files."""
    kind = "a folder" if os.path.isdir(expanded(names[0])) else "no file here"
    return f"[not attached: {quoted(names[0])} is {kind}]"
