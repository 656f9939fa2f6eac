"""What tools give besides text: files for the user, and JSON for programs."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

from mlx_oss import Attachment, ToolProgress, ToolResult
from mlx_oss.cli.printers import JsonPrinter, PlainPrinter
from mlx_oss.cli.remarks import remark

IMAGE = Attachment("image/png", b"\x89PNG", "../../etc/evil\x1b[31m")
RESULT = ToolResult("functions.draw", "a drawing", attachments=(IMAGE, Attachment("no/such-type", b"x")))


def test_attachments_are_written_where_only_the_user_can_read_them(capsys):
    printer = PlainPrinter()
    printer(RESULT)
    printer.end_turn()
    shown = capsys.readouterr().err
    first, second = map(Path, re.findall(r": (\S+/mlx-oss-\S+?)\]", shown.replace("\n", " ")))
    assert first.name == "1.png" and first.read_bytes() == IMAGE.data and second.name == "2.bin"
    assert first.parent.stat().st_mode & 0o077 == 0 and "\x1b" not in shown


def test_as_json_they_are_base64_and_a_result_without_any_is_as_before(capsys):
    printer = JsonPrinter()
    printer(RESULT)
    printer(ToolResult("functions.draw", "nothing"))
    with_some, without = map(json.loads, capsys.readouterr().out.splitlines())
    assert base64.b64decode(with_some["attachments"][0]["data"]) == IMAGE.data and "attachments" not in without


def test_progress_is_one_line():
    assert remark(ToolProgress("notes.copy", 3, 10, "a\nb")) == "[notes.copy: 3 of 10 · a␤b]"
    assert remark(ToolProgress("notes.copy", 2048)) == "[notes.copy: 2,048]"
