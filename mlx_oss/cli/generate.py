"""`mlx-oss generate`: one prompt, and everything the model writes after it, control tokens included."""

from __future__ import annotations

import argparse
import json
import sys

from mlx_oss.cli import model as model_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="what the user says; with --raw the text to continue as it stands")
    model_arguments.add_arguments(parser)
    parser.add_argument("--reasoning", choices=("low", "medium", "high"), default="medium", help="effort")
    parser.add_argument(
        "--raw", action="store_true", help="no chat format: continue PROMPT, in which <|start|> and the like are tokens"
    )
    parser.add_argument("--json", action="store_true", help="a line a token: id, text, log-probability")


def run(args: argparse.Namespace) -> int:
    options = model_arguments.sampling_options(args)
    model, tokenizer = model_arguments.load(args)
    from mlx_oss.generate import generate_step
    from mlx_oss.harmony import Message, SystemContent, render_conversation

    if args.raw:
        prompt = tokenizer.encode_with_specials(args.prompt)
    else:
        system = Message("system", SystemContent(reasoning_effort=args.reasoning))
        prompt = render_conversation([system, Message("user", args.prompt)], next_role="assistant")
    decoder = tokenizer.stream_decoder()
    steps = generate_step(model, prompt, options, max_tokens=args.max_tokens, stop_ids=tokenizer.stop_ids)
    for step in steps:
        text = decoder.feed(step.token)
        if args.json:
            line = {"id": step.token, "text": text, "logprob": step.logprob, "finish": step.finish}
            text = json.dumps(line, ensure_ascii=False) + "\n"
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("" if args.json else decoder.finish() + "\n")
    return 0
