"""Compares the speed with openai-harmony 0.0.8: `python -m tests.harmony.bench` in a checkout.

Reports the best of several rounds.
"""

import time
from collections.abc import Callable

from mlx_oss.harmony import (
    PYTHON,
    DeveloperContent,
    HarmonyParser,
    Message,
    SystemContent,
    ToolDescription,
    render_conversation,
)

from . import oracle

ROUNDS = 9
PARAGRAPH = "The quick brown fox jumps over the lazy dog, pays 12.50 € at the café 🫠, and walks home in the rain.\n\n"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 3}}}


def conversation() -> list[Message]:
    """Twenty messages in six turns, one of them with a tool call."""
    weather = (ToolDescription("get_weather", "The weather of some days.", SCHEMA),)
    question, thought = Message("user", PARAGRAPH * 2), Message("assistant", PARAGRAPH * 3, "analysis")
    turn = [question, thought, Message("assistant", PARAGRAPH * 6, "final")]
    call = Message("assistant", '{"city": "Köln"}', "commentary", "functions.get_weather", "<|constrain|>json")
    result = Message("tool", PARAGRAPH, "commentary", "assistant", name="functions.get_weather")
    system = Message("system", SystemContent(conversation_start_date="2025-08-05", tools=(PYTHON,)))
    developer = Message("developer", DeveloperContent.with_functions("Be brief.", weather))
    return [system, developer, *turn * 5, call, result, turn[-1]]


def seconds(run: Callable[[], object]) -> float:
    def once() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return min(once() for _ in range(ROUNDS))


def parse_ours(ids: list[int]) -> None:
    parser = HarmonyParser(None)
    for id_ in ids:
        parser.feed(id_)
    parser.finish()


def parse_theirs(ids: list[int], *, deltas: bool) -> None:
    parser = oracle.oh.StreamableParser(oracle.encoding(), None)
    for id_ in ids:
        parser.process(id_)
        if deltas:
            _ = parser.last_content_delta
    parser.process_eos()


def main() -> None:
    messages = conversation()
    assert len(messages) == 20
    ids, theirs, render = (
        render_conversation(messages),
        oracle.conversation(messages),
        oracle.encoding().render_conversation,
    )
    print(f"{len(messages)} messages, {len(ids)} tokens; µs per token")
    compare("render", len(ids), lambda: render_conversation(messages), lambda: render(theirs, oracle.EVERYTHING))
    compare("parse", len(ids), lambda: parse_ours(ids), lambda: parse_theirs(ids, deltas=False))
    compare("parse, reading their deltas", len(ids), lambda: parse_ours(ids), lambda: parse_theirs(ids, deltas=True))


def compare(name: str, tokens: int, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    our_time, their_time = (seconds(run) * 1e6 / tokens for run in (ours, theirs))
    print(f"{name}: {our_time:.2f}, openai-harmony {their_time:.2f}: {their_time / our_time:.1f} times as fast")


if __name__ == "__main__":
    main()
