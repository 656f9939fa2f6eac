"""Whatever happens in a turn, in whatever order: the stream is one that clients read, and builds the same response."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_oss import Usage
from mlx_oss.events import (
    AnswerDelta,
    Citation,
    Event,
    Finished,
    PreambleDelta,
    PrefillProgress,
    ReasoningDelta,
    ReasoningStopped,
    TokenLogprob,
    ToolCall,
    ToolResult,
)
from mlx_oss.server.asked import Cost, Writer
from mlx_oss.server.chat_completions import ChatCompletions
from mlx_oss.server.connection import encoded
from mlx_oss.server.messages import Messages
from tests.server.chat_completions import streams as chat
from tests.server.messages import streams as messages

TEXT = st.text(min_size=1, max_size=4)
CALL = st.builds(
    ToolCall,
    st.sampled_from(["functions.f", "functions.custom", "functions.", "python", "browser.search"]),
    st.sampled_from(["{}", '{"a": 1}', "", "[1]", '{"a', '{"a": "\\ud800"}', '{"input": "x"}', "\N{GRINNING FACE}"]),
)
PIECE = st.one_of(
    st.builds(ReasoningDelta, TEXT),
    st.builds(PreambleDelta, TEXT),
    st.builds(AnswerDelta, TEXT),
    st.builds(TokenLogprob, TEXT, st.sampled_from([0.0, -1.5, float("-inf")]), st.integers(0, 199_997)),
    st.just(PrefillProgress(1, 2)),
    st.just(ReasoningStopped("limit")),
)
PIECES = st.lists(PIECE.map(lambda piece: [piece]) | CALL.map(lambda call: [call, ToolResult(call.recipient, "x")]))
USAGE = Usage(prompt_tokens=9, reused_tokens=4, generated_tokens=3)
ENDS = st.sampled_from(["stop", "no_answer", "length", "cancelled", "repetition"])
END = st.one_of(
    ENDS.map(lambda reason: [Finished(reason, USAGE)]),
    st.just([Finished("stop", USAGE, stop="x")]),
    st.just([Finished("stop", USAGE, (Citation(0, 1, 2, "https://a.b", "A", "text", 3, 7),))]),
    CALL.map(lambda call: [call, Finished("tool_calls", USAGE)]),
    CALL.map(lambda call: [call, Finished("length", USAGE)]),
)
TURN = st.builds(lambda pieces, end: [*(event for some in pieces for event in some), *end], PIECES, END)


def written(writer: Writer, events: list[Event]) -> tuple[str, Any]:
    """The stream, and the response as it would be sent."""
    frames = [*writer.wait(), *writer.begin(9)]
    for event in events:
        frames += writer.take(event)
        if isinstance(event, ToolCall):
            assert writer.call_id()
    frames += writer.end([Cost(USAGE, 1)])
    return b"".join(map(encoded, frames)).decode(), json.loads(json.dumps(writer.body))


@settings(max_examples=300, deadline=None)
@given(TURN, st.booleans(), st.booleans())
def test_chat_completions_say_the_same_in_both_forms(events, has_format, has_browser):
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "stream_options": {"include_usage": True},
        "tools": [{"type": "custom", "custom": {"name": "custom"}}],
        "web_search_options": {},
        **({"response_format": {"type": "json_object"}} if has_format else {}),
    }
    api = ChatCompletions(["browser"] if has_browser else [])
    stream, whole = written(api.writer(api.asked(body), "nano"), events)
    first, *chunks = chat.chunks_of(stream + "data: [DONE]\n\n")
    assert first["choices"][0]["delta"] == {}
    assert chat.built(chunks) == chat.valid(whole)


def test_a_citation_is_where_it_stands_in_the_content():
    mark, cited = "[0]", Citation(0, 1, 2, "https://a.b", "A", "text", 3, 6)
    events: list[Event] = [PreambleDelta("I look."), ReasoningDelta("Hm."), AnswerDelta("It "), AnswerDelta(f"{mark}.")]
    api = ChatCompletions()
    writer = api.writer(api.asked({"messages": [{"role": "user", "content": "Hi"}]}), "nano")
    _, whole = written(writer, [*events, Finished("stop", USAGE, (cited,))])
    message = whole["choices"][0]["message"]
    place = message["annotations"][0]["url_citation"]
    assert message["content"][place["start_index"] : place["end_index"]] == mark


@pytest.mark.parametrize("display", ["summarized", "omitted", None])
@settings(max_examples=200, deadline=None)
@given(TURN, st.booleans())
def test_messages_say_the_same_in_both_forms(display, events, has_browser):
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
        **({"thinking": {"type": "adaptive", "display": display}} if display else {}),
    }
    api = Messages(["browser"] if has_browser else [])
    stream, whole = written(api.writer(api.asked(body), "nano"), events)
    assert messages.built(messages.events_of(stream)) == messages.valid(whole)
