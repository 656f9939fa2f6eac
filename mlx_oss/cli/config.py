"""`mlx-oss config`: shows the user's own defaults, and where each comes from."""

from __future__ import annotations

import argparse
import json
import os
import sys

from mlx_oss.cli import chat as chat_command
from mlx_oss.cli import kept, settings
from mlx_oss.terminal import one_line, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print them as one JSON object")


def run(args: argparse.Namespace) -> int:
    file, read = settings.path(), settings.read()
    chat_command.add_arguments(argparse.ArgumentParser())  # reports a wrong value as chat itself would
    model = settings.model()
    chat = read.get("chat", {})
    if args.json:
        home = kept.folder()
        shown = {
            "file": None if file is None else str(file),
            "model": model,
            "chat": chat,
            "mcp": sorted(read.get("mcp", {})),
            "conversations": None if home is None else str(home),
        }
        sys.stdout.write(json.dumps(shown, default=str) + "\n")
        return 0
    if file is None:
        report("There is no home folder, so there is no file with defaults.")
    else:
        report(one_line(f"{file}{'' if file.exists() else ' (does not exist)'}"))
    origin = settings.VARIABLE if os.environ.get(settings.VARIABLE) else "file"
    named = (
        f'model = "{model}" ({origin})'
        if model
        else "model: nano, because neither the file nor MLX_OSS_MODEL names one"
    )
    report(one_line(named))
    for key, value in chat.items():
        report(one_line(f"chat {key} = {json.dumps(value, default=str)}"))
    if servers := sorted(read.get("mcp", {})):
        report(one_line(f"servers for --mcp: {', '.join(servers)}"))
    if (home := kept.folder()) is not None:
        report(one_line(f"conversations are kept in {home}"))
    return 0
