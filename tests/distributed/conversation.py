"""Run by one process or several: a conversation with nano, with everything that changes caches. Prints what was said.

    python conversation.py SAVED SAVE

A conversation that was saved before only goes on.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import mlx_oss
from mlx_oss import distributed


def main() -> None:
    opened, saved = sys.argv[1:]
    model, tokenizer = mlx_oss.load(None, group=distributed.group(), dtype="float32", context=2000)
    options = mlx_oss.SamplingOptions(temperature=1, seed=5, top_logprobs=2)
    how = {"options": options, "max_tokens": 30, "logprobs": True}
    if opened:
        session = mlx_oss.ChatSession.load(opened, model, tokenizer)
    else:
        session = mlx_oss.ChatSession(model, tokenizer, current_date="2026-01-01", **how)
        tell(session.ask("What can you do?"))
    tell(session.ask("And who are you?"))
    session.save(saved)
    if not opened:
        go_apart(session)
    sys.stdout.write(f"{model.fingerprint} {model.stats.reused_tokens}\n")
    if (group := distributed.group()) is not None:
        with suppress(mlx_oss.OptionError):
            mlx_oss.load(None, group=group)
            sys.exit("a second model was loaded")


def go_apart(session: mlx_oss.ChatSession) -> None:
    fork = session.fork()
    tell(fork.ask("What is MXFP4?", response_format={"type": "object", "properties": {"a": {"type": "integer"}}}))
    session.undo()
    tell(session.ask("Who are you, then?"))
    for reply in mlx_oss.ask_many(session, ["Hi", "What is the capital of France?", "2 + 2?"]):
        tell(reply)


def tell(reply: mlx_oss.Reply) -> None:
    logprobs = [token.logprob for token in reply.logprobs]
    sys.stdout.write(f"{reply.text!r} {reply.reasoning!r} {reply.finish_reason} {logprobs}\n")


if __name__ == "__main__":
    main()
