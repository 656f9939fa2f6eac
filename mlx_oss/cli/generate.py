"""`mlx-oss generate`: one prompt, and everything the model writes after it, control tokens included.

With tools, also what they answer, as the model reads it, and what it writes then.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from mlx_oss.cli import model_arguments, tool_arguments
from mlx_oss.cli.sanitize import sanitize
from mlx_oss.errors import OptionError

if TYPE_CHECKING:
    from mlx_oss.tools.calls import Toolset

_ROUNDS = 32  # of calls


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="what the user says; with --raw the text to continue as it stands")
    model_arguments.add_arguments(parser)
    parser.add_argument("--reasoning", choices=("low", "medium", "high"), default="medium", help="effort")
    tool_arguments.add_arguments(parser)
    parser.add_argument(
        "--raw", action="store_true", help="no chat format: continue PROMPT, in which <|start|> and the like are tokens"
    )
    parser.add_argument("--json", action="store_true", help="a line a token: id, text, log-probability")


def run(args: argparse.Namespace) -> int:
    if args.raw and args.tools:
        raise OptionError("--raw takes the prompt as it stands, so there is no place for --tool: leave one of them out")
    options, tools = model_arguments.sampling_options(args), tool_arguments.tools(args)
    model, tokenizer = model_arguments.load(args)
    from mlx_oss.chat.history import preamble
    from mlx_oss.generation.generate import generate_step
    from mlx_oss.harmony import Message, render_conversation
    from mlx_oss.tools.calls import Toolset

    toolset = Toolset(**tools)
    if args.raw:
        prompt = tokenizer.encode_with_specials(args.prompt)
    else:
        blocks = preamble("", args.reasoning, toolset.functions, toolset.namespaces, None)
        prompt = render_conversation([*blocks, Message("user", args.prompt)], next_role="assistant")
    for _ in range(_ROUNDS):
        decoder, written = tokenizer.stream_decoder(), []
        for step in generate_step(model, prompt, options, max_tokens=args.max_tokens, stop_ids=tokenizer.stop_ids):
            written.append(step.token)
            text = decoder.feed(step.token)
            if args.json:
                line = {"id": step.token, "text": text, "logprob": step.logprob, "finish": step.finish}
                text = json.dumps(line, ensure_ascii=False) + "\n"
            _write(text)
        _write("" if args.json else decoder.finish())
        answers = [] if args.raw else _answers(toolset, written)
        if not answers:
            break
        _write("" if args.json else tokenizer.decode(answers))
        prompt = [*prompt, *written, *answers]
    _write("" if args.json else "\n")
    return 0


def _answers(toolset: Toolset, written: list[int]) -> list[int]:
    """What the tools that were called answer, ready for the model to go on; nothing if none was that is run here."""
    from mlx_oss.chat.history import OPENING, Entry
    from mlx_oss.chat.stream import EventTranslator
    from mlx_oss.harmony import HarmonyParser

    parser, translator = HarmonyParser(), EventTranslator()
    for token in written:
        translator.translate(parser.feed(token))
    ids: list[int] = []
    for call in filter(toolset.handles, translator.calls):
        invocation = toolset.invoke(call)
        invocation.perform()
        ids += Entry.answering(call, invocation.result.text).ids
    return ids + OPENING if ids else []


def _write(text: str) -> None:
    sys.stdout.write(sanitize(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
