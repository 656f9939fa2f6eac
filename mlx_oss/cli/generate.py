"""`mlx-oss generate`: prints everything the model writes after one prompt, control tokens included.

With tools, it also prints the tool results as the model reads them, and what the model writes then.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from mlx_oss.cli import attachments, model_arguments, tool_arguments
from mlx_oss.cli.statuses import CUT_OFF, DONE
from mlx_oss.errors import OptionError
from mlx_oss.terminal import sanitize, say

if TYPE_CHECKING:
    from mlx_oss.tokenizer import Tokenizer
    from mlx_oss.tools.toolset import Toolset

_MAX_ROUNDS = 32  # of generation, each followed by its tool calls


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="message of the user; with --raw, the text to continue; - for stdin")
    model_arguments.add_arguments(parser)
    parser.add_argument(
        "--reasoning",
        choices=("low", "medium", "high"),
        default="medium",
        help="how much the model reasons (default medium)",
    )
    tool_arguments.add_arguments(parser)
    parser.add_argument(
        "--raw",
        action="store_true",
        help="continue PROMPT without the chat format; <|start|> and other control tokens in it are read as tokens",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a line of JSON for each token: id, text, log-probability, reason to finish",
    )


def run(args: argparse.Namespace) -> int:
    """Prints what the model writes. The exit status is 3 if it was cut off; text that --raw continues has no end."""
    if args.raw and (args.tools or args.mcp):
        raise OptionError(
            "--raw continues the prompt without the chat format, so it has no tools: leave out --raw or --tool, --mcp"
        )
    options, tools = model_arguments.sampling_options(args), tool_arguments.tools(args)
    if args.prompt == attachments.STDIN:
        args.prompt = attachments.stdin_text()
    model, tokenizer = model_arguments.load(args)
    from mlx_oss.chat.history import preamble
    from mlx_oss.generation.engine import Request
    from mlx_oss.harmony import Message, render_conversation
    from mlx_oss.harmony.schemas import with_simplified_schemas
    from mlx_oss.tools.toolset import Toolset

    toolset = Toolset(**tools)
    if args.raw:
        prompt = tokenizer.encode_with_specials(args.prompt)
    else:
        blocks = preamble("", args.reasoning, toolset.functions, toolset.namespaces, None, groups=toolset.groups)
        blocks = list(map(with_simplified_schemas, blocks))
        prompt = render_conversation(
            [*blocks, Message("user", args.prompt)], next_role="assistant", tokenizer=tokenizer
        )
    cache, is_cut_off = model.make_prompt_cache(), False
    for _ in range(_MAX_ROUNDS):
        decoder, written = tokenizer.stream_decoder(), []
        request = Request(prompt, options, args.max_tokens, tokenizer.stop_ids, cache=cache)
        for step in model.submit(request):
            written.append(step.token)
            is_cut_off = step.finish == "length" and not args.raw
            text = decoder.feed(step.token)
            if args.json:
                line = {"id": step.token, "text": text, "logprob": step.logprob, "finish": step.finish}
                text = json.dumps(line, ensure_ascii=sys.stdout.isatty()) + "\n"
            _write(text)
        _write("" if args.json else decoder.finish())
        results = [] if args.raw else _tool_results(toolset, written, tokenizer)
        if not results:
            break
        _write("" if args.json else tokenizer.decode(results))
        prompt = [*prompt, *written, *results]
    _write("" if args.json else "\n")
    if is_cut_off and not args.json:
        at_limit = args.max_tokens is not None and len(written) >= args.max_tokens
        say(f"[cut off{' at --max-tokens' if at_limit else ': the context is full'}]")
    return CUT_OFF if is_cut_off else DONE


def _tool_results(toolset: Toolset, written: list[int], tokenizer: Tokenizer) -> list[int]:
    """Runs the tools that the model called. Returns the ids that it reads next, or none if no tool was run."""
    from mlx_oss.chat.history import OPENING, Entry
    from mlx_oss.chat.translation import tool_calls
    from mlx_oss.harmony import parse_messages

    ids: list[int] = []
    for call in filter(toolset.handles, tool_calls(parse_messages(written, tokenizer=tokenizer))):
        invocation = toolset.invoke(call)
        invocation.perform()
        while invocation.is_running:  # it has told of its progress
            invocation.take_progress()
            invocation.perform()
        ids += Entry.from_tool_result(call, invocation.result.text, tokenizer).ids
    return ids + OPENING if ids else []


def _write(text: str) -> None:
    sys.stdout.write(sanitize(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
