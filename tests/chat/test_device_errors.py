"""MLX fails in the middle of a turn: the turn is taken back, the chat goes on, and later answers are right."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

import mlx_oss
from mlx_oss import ChatSession, Message, SamplingOptions, ToolResult
from mlx_oss.cli.conversation import converse
from mlx_oss.cli.printers import PlainPrinter
from mlx_oss.errors import DeviceError, NumericalError
from mlx_oss.generation import compute_thread, token_picker
from mlx_oss.generation.engine import Request
from mlx_oss.tokenizer import load_tokenizer

GREEDY = SamplingOptions(temperature=0)
FAILED = "[METAL] Command buffer execution failed: "
OUT_OF_MEMORY = f"{FAILED}Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)."
STOPPED = f"{FAILED}Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)."
# Where MLX reports that something failed: when a chunk is read, a token computed, its value asked for.
POINTS = [("eval", 0), *((name, n) for name in ("async_eval", "_number", "hidden", "logits") for n in (0, 4))]


@pytest.fixture(scope="module")
def nano() -> mlx_oss.LocalEngine:
    return mlx_oss.load()[0]


@pytest.fixture
def fail(monkeypatch, nano) -> Callable[..., None]:
    """fail(point, after, message): the call of the point that follows `after` others raises MLX's error, once."""

    def arm(point: str, after: int, message: str = OUT_OF_MEMORY) -> None:
        owner = {"_number": token_picker, "hidden": type(nano.transformer), "logits": type(nano.transformer)}.get(
            point, mx
        )
        real, calls = getattr(owner, point), [0]

        def function(*args: object, **kwargs: object) -> object:
            if compute_thread.is_current():
                calls[0] += 1
                if calls[0] == after + 1:
                    raise RuntimeError(message)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, point, function)

    return arm


def new_session(nano: mlx_oss.LocalEngine, **options) -> ChatSession:
    defaults = {"options": GREEDY, "reasoning_effort": "none", "max_tokens": 8}
    return ChatSession(nano, load_tokenizer(), **defaults | options)


@pytest.fixture(scope="module")
def asked(nano) -> ChatSession:
    """A session after one question; tests fork it."""
    session = new_session(nano)
    session.ask("What is the capital of France?")
    return session


@pytest.fixture(scope="module")
def undisturbed(asked) -> list[Message]:
    """The messages after the second question, if nothing fails."""
    session = asked.fork()
    session.ask("And of Italy?")
    return session.messages


@pytest.mark.parametrize(("point", "after"), POINTS)
def test_the_turn_is_taken_back_and_asking_again_answers_as_if_undisturbed(fail, asked, undisturbed, point, after):
    session = asked.fork()
    before, generated = session.messages, session.stats.generated_tokens
    fail(point, after)
    with pytest.raises(DeviceError, match="--memory"):
        session.ask("And of Italy?")
    assert session.messages == before and session.turns == session.stats.turns == 1
    assert session.stats.generated_tokens == generated
    session.ask("And of Italy?")
    assert session.messages == undisturbed


@pytest.mark.parametrize("after", [0, 4])
def test_a_turn_whose_logits_are_not_numbers_is_taken_back(nano, asked, undisturbed, monkeypatch, after):
    session, calls, logits = asked.fork(), [0], type(nano.transformer).logits
    before = session.messages

    def not_numbers(self: object, hidden: mx.array) -> mx.array:
        calls[0] += 1
        return logits(self, hidden) * (float("nan") if calls[0] == after + 1 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(type(nano.transformer), "logits", not_numbers)
        with pytest.raises(NumericalError, match="mlx-oss verify"):
            session.ask("And of Italy?")
    assert session.messages == before and session.turns == session.stats.turns == 1
    session.ask("And of Italy?")
    assert session.messages == undisturbed


def test_once_a_tool_has_run_the_turn_is_kept_and_the_chat_goes_on(nano, fail):
    def weather(city: str) -> str:
        """Returns the weather in a city.

        Args:
            city: The city.
        """
        fail("eval", 0)
        return "sunny, 18 degrees"

    session = new_session(nano, tools=[weather], max_tokens=None, reasoning_effort="low")
    seen = []
    with pytest.raises(DeviceError):
        for event in session.send("What is the weather in Paris?"):
            seen.append(event)
    assert any(isinstance(event, ToolResult) for event in seen) and session.turns == 1
    assert "sunny, 18 degrees" in str(session.messages[-1].content)
    assert session.ask("What is the capital of France?").text


def test_a_retry_that_fails_leaves_the_answer_that_it_was_to_replace(asked, fail):
    session = asked.fork()
    before = session.messages
    fail("_number", 3)
    with pytest.raises(DeviceError):
        list(session.retry())
    assert session.messages == before


def test_the_terminal_says_that_the_question_was_taken_back_and_reads_the_next(nano, fail, monkeypatch, capsys):
    questions = iter(["What is the capital of France?", "What is the capital of France?"])
    monkeypatch.setattr("mlx_oss.cli.prompt.make_reader", lambda *_, **__: lambda: next(questions, None) or end())

    def end() -> str:
        raise EOFError

    fail("eval", 0)
    converse(new_session(nano), PlainPrinter())
    out, error = capsys.readouterr()
    assert "not enough memory" in error and "the question was taken back" in error
    assert "Paris" in out


@pytest.mark.parametrize("point", ["dequantize", "array", "eval"])
def test_a_chat_whose_caches_have_no_room_is_not_called_damaged(nano, asked, fail, tmp_path, point):
    path = tmp_path / "chat"
    asked.save(path)
    if point == "dequantize":
        del nano.fingerprint  # computed again
    fail(point, 0)
    with pytest.raises(DeviceError, match="--memory"):
        ChatSession.load(path, nano, load_tokenizer())
    assert ChatSession.load(path, nano, load_tokenizer()).messages == asked.messages


def test_a_chat_that_cannot_be_saved_now_can_be_saved_later(nano, asked, fail, tmp_path):
    del nano.fingerprint
    fail("dequantize", 0)
    with pytest.raises(DeviceError):
        asked.save(tmp_path / "chat")
    assert not list(tmp_path.iterdir())
    asked.save(tmp_path / "chat")


@pytest.mark.parametrize("command", ["/retry", "/save {}"])
def test_after_a_command_that_fails_the_terminal_does_not_say_that_a_question_was_taken_back(
    nano, asked, fail, monkeypatch, capsys, tmp_path, command
):
    typed = iter([command.format(tmp_path / "chat")])
    session = asked.fork()

    def read() -> str:
        for line in typed:
            fail("async_eval" if line == "/retry" else "contiguous", 0)
            return line
        raise EOFError

    monkeypatch.setattr("mlx_oss.cli.prompt.make_reader", lambda *_, **__: read)
    converse(session, PlainPrinter())
    error = capsys.readouterr().err
    assert "not enough memory" in error and "taken back" not in error
    assert session.messages == asked.messages


def test_work_that_takes_too_long_is_cut_smaller_from_then_on_but_not_without_end(nano, fail, monkeypatch):
    chunk = nano.chunk
    monkeypatch.setattr(nano, "chunk", chunk)
    for wanted in (256, 128, 64, 32, 32):
        fail("eval", 0, STOPPED)
        with pytest.raises(DeviceError, match="took too long") as caught:
            list(nano.submit(Request([1, 2, 3], max_tokens=2)))
        assert caught.value.took_too_long and nano.chunk == wanted
    fail("eval", 0)
    with pytest.raises(DeviceError):
        list(nano.submit(Request([1, 2, 3], max_tokens=2)))
    assert nano.chunk == 32


def test_a_constraint_that_raises_a_runtime_error_gets_its_own_error_back(nano):
    class Broken:
        def allowed(self) -> None:
            raise RuntimeError("a bug of the app")

        def accept(self, token: int) -> None: ...

    with pytest.raises(RuntimeError, match="a bug of the app"):
        list(nano.submit(Request([1, 2, 3], constraint=Broken())))


def test_a_caller_who_computes_alone_gets_the_same_error(nano, monkeypatch):
    def failing(*_: object) -> None:
        raise RuntimeError(OUT_OF_MEMORY)

    monkeypatch.setattr(mx, "eval", failing)
    with pytest.raises(DeviceError):
        next(mlx_oss.generate_step(nano, [1, 2, 3]))
    monkeypatch.setattr(type(nano.transformer), "__call__", failing)
    with pytest.raises(DeviceError):
        nano(mx.array([[1, 2]]))
