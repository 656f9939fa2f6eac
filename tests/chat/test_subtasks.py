"""Sub-tasks: fresh sessions of the same beginning, at the same time, within limits, and ended with their turn."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import threading
import time
from collections.abc import Callable

import pytest

from mlx_oss import (
    ChatSession,
    Finished,
    OptionError,
    SamplingOptions,
    SubtaskLimits,
    ToolResult,
    add_subtasks,
)
from mlx_oss.tools import BrowserTool, Tool
from tests.chat.scripted import DATE, TOKENIZER
from tests.research.world import Answering, asked, call, messages

QUESTIONS = ["How deep is A?", "How deep is B?", "How deep is C?"]


def gives(*questions: str) -> str:
    arguments = json.dumps({"questions": questions})
    return f"<|channel|>commentary to=functions.subtasks <|constrain|>json<|message|>{arguments}<|call|>"


def results(prompt: str) -> list[str]:
    """What tools have answered after the last message of the user."""
    after = prompt.rpartition("<|start|>user")[2]
    found = [each for each in messages(after) if each.startswith("functions.subtasks")]
    return [each.partition("<|message|>")[2].removesuffix("<|end|>") for each in found]


def rule(prompt: str) -> str:
    """Asks three questions in sub-tasks, which answer at once; then says what they have answered."""
    if "How deep is" in asked(prompt):
        return asked(prompt).rpartition(" is ")[2][0] + " is deep."
    return results(prompt)[-1] if results(prompt) else gives(*QUESTIONS)


def session_of(rule: Callable[[str], str], **options) -> ChatSession:
    return ChatSession(Answering(rule), TOKENIZER, current_date=DATE, **options)


def test_the_answers_of_sub_tasks_come_back_in_order():
    session = session_of(rule)
    subtasks = add_subtasks(session)
    (result,) = [event for event in session.send("Find out.") if isinstance(event, ToolResult)]
    assert json.loads(result.text) == ["A is deep.", "B is deep.", "C is deep."]
    assert subtasks.started == 3 and subtasks.usage.generated_tokens > 9


def test_a_sub_task_knows_only_its_question_and_begins_as_the_conversation_does():
    session = session_of(rule, instructions="Be brief.")
    add_subtasks(session)
    session.ask("Find out.")
    first, *others, _ = session.model.requests
    assert len(others) == 3
    for request in others:
        assert request.prompt[: request.preamble] == first.prompt[: first.preamble]
        said = TOKENIZER.decode(request.prompt[request.preamble :])
        assert said.count("<|message|>") == 1 and "Find out." not in said


def test_the_engine_does_not_read_the_beginning_again(session, script):
    add_subtasks(session)
    script.says(gives("One?"), "<|channel|>final<|message|>1<|return|>", "<|channel|>final<|message|>One.<|return|>")
    assert session.ask("Find out.").text == "One."
    _, sub, _ = script._rounds
    assert sub[1].counts.reused_tokens >= sub[0].preamble > 50


def test_sub_tasks_run_at_the_same_time():
    """Each of them calls a tool that waits until all of them have called it."""
    together = threading.Barrier(3)

    def meet() -> str:
        """Waits for the others."""
        together.wait(20)
        return "met"

    def meeting(prompt: str) -> str:
        if "How deep is" in asked(prompt) and "functions.meet to=assistant" not in prompt:
            return "<|channel|>commentary to=functions.meet <|constrain|>json<|message|>{}<|call|>"
        return rule(prompt)

    session = session_of(meeting, tools=[meet])
    add_subtasks(session)
    assert "C is deep." in session.ask("Find out.").text


def test_each_browser_counts_its_own_pages_and_citations_name_the_page(tmp_path):
    for name in "ABC":
        (tmp_path / f"{name}.md").write_text(f"# {name}\n\n{name} is 7 metres deep.\n")

    def browsing(prompt: str) -> str:
        name = re.search(r"How deep is (\w)", asked(prompt))
        if name is None:
            return rule(prompt)
        if "browser.open" not in prompt.rpartition("<|start|>user")[2]:
            return call("open", id=f"{name[1]}.md")
        return f"{name[1]} is 7 metres deep 【0†L4】."

    session = session_of(browsing, tools=[BrowserTool(tmp_path)])
    add_subtasks(session)
    (result,) = [event for event in session.send("Find out.") if isinstance(event, ToolResult)]
    assert json.loads(result.text)[1] == "B is 7 metres deep (B.md, lines 4 to 4)."


def nested(prompt: str) -> str:
    """Every question is given to a sub-task, until that is refused."""
    if not results(prompt):
        return gives("Who is it?")
    return results(prompt)[-1]


@pytest.mark.parametrize("depth", [1, 3])
def test_nesting_ends_at_the_depth(depth):
    session = session_of(nested)
    subtasks = add_subtasks(session, SubtaskLimits(depth=depth))
    assert "no more sub-tasks of its own" in session.ask("Find out.").text
    assert subtasks.started == depth


def test_no_more_sub_tasks_are_started_than_allowed():
    session = session_of(rule)
    subtasks = add_subtasks(session, SubtaskLimits(tasks=2))
    assert "2 more sub-tasks may be given, not 3" in session.ask("Find out.").text
    assert subtasks.started == 0


def test_tokens_and_calls_of_a_sub_task_are_limited():
    session = session_of(lambda prompt: "word " * 500 if "How" in asked(prompt) else rule(prompt))
    add_subtasks(session, SubtaskLimits(tokens=20, calls=3))
    assert session.ask("Find out.").text.count("(cut off: length)") == 3
    assert {request.max_tokens for request in session.model.requests[1:4]} == {20}

    def ping() -> str:
        """Pings."""
        return "pong"

    def pinging(prompt: str) -> str:
        if "How" not in asked(prompt) or "a turn may call tools 3 times" in prompt:
            return rule(prompt)
        return "<|channel|>commentary to=functions.ping <|constrain|>json<|message|>{}<|call|>"

    session = session_of(pinging, tools=[ping])
    add_subtasks(session, SubtaskLimits(calls=3))
    assert "C is deep." in session.ask("Find out.").text


def sleeping(seconds: float, begun: threading.Event, ended: threading.Event) -> Tool:
    """A tool that waits, and tells when it begins and is stopped."""
    from mlx_oss.tools import tool_from

    async def wait() -> str:
        """Waits."""
        begun.set()
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.set()
        return "waited"

    return tool_from(wait)


def waiting(prompt: str) -> str:
    if "How deep is B" in asked(prompt):
        return "<|channel|>commentary to=functions.wait <|constrain|>json<|message|>{}<|call|>"
    return rule(prompt)


def test_what_is_not_done_in_time_is_told_and_the_others_are_kept():
    begun, ended = threading.Event(), threading.Event()
    session = session_of(waiting, tools=[sleeping(60, begun, ended)])
    add_subtasks(session, SubtaskLimits(seconds=0.5))
    text = session.ask("Find out.").text
    assert "A is deep." in text and "C is deep." in text and "(no answer: it was not done within 0.5 seconds)" in text
    assert ended.wait(10)


def test_cancelling_the_turn_ends_its_sub_tasks(caplog):
    begun, ended = threading.Event(), threading.Event()
    session = session_of(waiting, tools=[sleeping(60, begun, ended)])
    add_subtasks(session)

    def cancel() -> None:
        begun.wait(10)
        session.cancel()

    threading.Thread(target=cancel).start()
    started = time.monotonic()
    *_, last = session.send("Find out.")
    assert isinstance(last, Finished) and last.reason == "cancelled" and time.monotonic() - started < 30
    assert ended.wait(10)
    gc.collect()  # asyncio logs then what nobody has looked at
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_in_an_event_loop_they_run_too_and_cancelling_the_task_ends_them():
    begun, ended = threading.Event(), threading.Event()
    session = session_of(waiting, tools=[sleeping(60, begun, ended)])
    add_subtasks(session)

    async def run() -> None:
        task = asyncio.create_task(session.aask("Find out."))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert ended.wait(10)
    assert "A is deep." in asyncio.run(with_subtasks(session_of(rule)).aask("Find out.")).text


def with_subtasks(session: ChatSession) -> ChatSession:
    add_subtasks(session)
    return session


def test_a_sub_task_that_fails_is_told_and_the_others_answer():
    def failing(prompt: str) -> str:
        if "How deep is B" in asked(prompt):
            raise RuntimeError("no memory left")
        return rule(prompt)

    text = with_subtasks(session_of(failing)).ask("Find out.").text
    assert "A is deep." in text and "(no answer: RuntimeError: no memory left)" in text


@pytest.mark.parametrize("questions", [[], [""], ["x" * 5000], "one", [3]])
def test_questions_that_are_none_are_refused_in_a_sentence(questions):
    wrong = gives().replace('"questions": []', f'"questions": {json.dumps(questions)}')
    session = with_subtasks(session_of(lambda prompt: "Done." if results(prompt) else wrong))
    (result,) = [event for event in session.send("Find out.") if isinstance(event, ToolResult)]
    assert result.error is not None and "question" in result.error


def test_seeds_differ():
    session = session_of(rule, options=SamplingOptions(seed=5))
    with_subtasks(session).ask("Find out.")
    assert sorted(request.options.seed or 0 for request in session.model.requests[1:4]) == [5, 6, 7]


@pytest.mark.parametrize(
    "wrong", [{"tokens": 0}, {"at_once": 1000}, {"depth": 0}, {"depth": 99}, {"seconds": 0}, {"tasks": True}]
)
def test_limits_that_cannot_be_are_refused(wrong):
    with pytest.raises(OptionError, match="expected"):
        SubtaskLimits(**wrong)


def test_a_session_that_was_loaded_gets_them_again_and_its_prompt_stays(tmp_path):
    session = with_subtasks(session_of(rule))
    session.ask("Find out.")
    session.save(tmp_path / "session", text_only=True)
    loaded = ChatSession.load(tmp_path / "session", Answering(rule), TOKENIZER, text_only=True)
    assert "A is deep." in with_subtasks(loaded).ask("Find out again.").text
    before, after = session.model.requests[0], loaded.model.requests[0]
    assert before.prompt[: before.preamble] == after.prompt[: after.preamble]


def test_a_fork_has_them_too():
    session = with_subtasks(session_of(rule))
    assert "A is deep." in session.fork().ask("Find out.").text


def test_a_session_gets_them_once():
    session = with_subtasks(session_of(rule))
    with pytest.raises(OptionError, match="two tools are called 'subtasks'"):
        add_subtasks(session)
