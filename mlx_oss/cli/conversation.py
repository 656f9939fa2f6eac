"""A conversation in the terminal: reads what the user types, and prints the answers.

`commands` has the commands that can be typed. Knows nothing of the arguments of `mlx-oss chat`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from mlx_oss.cli import attachments
from mlx_oss.cli.attachments import Attachment
from mlx_oss.cli.interrupts import echo_disabled, interruptible
from mlx_oss.cli.questions import checked_text
from mlx_oss.cli.statuses import CUT_OFF, DONE, INTERRUPTED
from mlx_oss.distributed import is_launched
from mlx_oss.errors import ContextError, DeviceError, MlxOssError
from mlx_oss.terminal import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_oss.chat.session import ChatSession
    from mlx_oss.cli.chat_state import ChatState
    from mlx_oss.cli.kept import Keeper
    from mlx_oss.cli.printers import Printer
    from mlx_oss.events import Event
    from mlx_oss.generation.engine import Engine
    from mlx_oss.tokenizer import Tokenizer

Reading = Callable[[], AbstractContextManager[None]]


def converse(
    session: ChatSession,
    printer: Printer,
    tools: dict[str, Any] | None = None,
    reading: Reading = nullcontext,
    keep_history: bool = True,
    fetch: Callable[[str, int | None], Path] | None = None,
    load: Callable[[str], tuple[Engine, Tokenizer]] | None = None,
    attached: Sequence[Attachment] = (),
    keeper: Keeper | None = None,
) -> None:
    """Reads questions and prints answers until Ctrl-D. Ctrl-C stops an answer, or clears the line that is being typed.

    Under `mlx.launch`, Ctrl-C ends the conversation, which is kept.

    Args:
        session: The session that answers.
        printer: Prints the events of each turn.
        tools: Keyword arguments of `ChatSession` for its tools, for sessions that the user loads. None means no tools.
        reading: The context in which lines are read, as `leaving_on_ctrl_d` yields it.
        keep_history: Whether questions are kept for later conversations.
        fetch: Finds or downloads a model, as `commands.ChatState` describes. None: the model cannot be changed.
        load: Loads a model and its tokenizer from a folder, for /model. None: the model cannot be changed.
        attached: Texts that go with the first question.
        keeper: Keeps the conversation. None if the user does not want that.
    """
    from mlx_oss.cli import prompt
    from mlx_oss.cli.chat_state import ChatState
    from mlx_oss.cli.commands import COMMANDS, LEAVING, dispatch

    def reply(events: Iterable[Event]) -> None:
        try:
            with echo_disabled():
                status_of_turn = show_turn(state.session, events, printer)
        finally:
            state.keep()
        if status_of_turn == INTERRUPTED and is_launched():
            raise KeyboardInterrupt
        printer.notice(status(state.session))

    state = ChatState(session, printer, reply, tools or {}, fetch, load, keeper)
    del session  # the state alone holds it, so that another model can take its place in memory
    read_line = prompt.make_reader(tuple(COMMANDS), keep_history=keep_history)
    # mlx.launch does not hand on Ctrl-D, and after Ctrl-C, which ends a part of it, nothing at all.
    leaving = "Ctrl-C or exit leaves" if is_launched() else "Ctrl-C stops an answer, Ctrl-D or exit leaves"
    printer.notice(f"/help lists the commands, {leaving}.")
    while not state.is_over:
        try:
            with reading():
                typed = read_line().strip()
        except KeyboardInterrupt:
            if is_launched():
                raise
            continue
        except EOFError:
            return
        except UnicodeDecodeError:
            typed = "\udc80"  # a surrogate, as in locales where Python does not raise
        is_command = typed.startswith("/") and not typed.startswith("//")
        with _errors_shown(state, is_command):
            checked_text(typed)
            if typed.lower() in LEAVING:
                return
            if is_command:
                dispatch(state, typed)
            elif typed:
                question = with_mentions(typed[1:] if typed.startswith("//") else typed, attached, printer)
                reply(state.session.send(question))
                attached = ()


@contextmanager
def _errors_shown(state: ChatState, is_command: bool) -> Iterator[None]:
    """Shows an error within the context, with what became of the question, or what helps. The conversation goes on."""
    turns = state.session.turns
    try:
        yield
    except ContextError as error:
        remedy = "; /undo and /clear make room" if state.session.turns else ""
        state.error(error, remedy)
    except DeviceError as error:
        is_taken_back = not is_command and state.session.turns == turns
        taken_back = "; the question was taken back" if is_taken_back else ""
        state.error(error, taken_back)
    except MlxOssError as error:
        state.error(error)


def with_mentions(typed: str, attached: Sequence[Attachment], printer: Printer) -> str:
    """The question with the texts of the files that it mentions; says which these are.

    Raises:
        OptionError: If one of them cannot be read.
    """
    files, others = attachments.mentioned(typed)
    attached = [*attached, *attachments.all_attached(files)]
    if attached:
        printer.notice(one_line(attachments.told(attached)))
    if others:
        printer.notice(one_line(attachments.not_attached(others)))
    return attachments.with_attachments(typed, attached)


def status(session: ChatSession) -> str:
    """Returns a line about the last turn: speed, time to the first token, used context and memory."""
    from mlx_oss.backend.host_memory import memory_bytes

    usage = session.usage
    parts = [f"{usage.tokens_per_second:.0f} tokens/s", f"first token {usage.prefill_seconds:.1f} s"]
    parts = parts if usage.generated_tokens else ["no tokens"]
    parts.append(f"context {session.context_used:,} of {session.context_limit:,}")
    parts.append(f"{memory_bytes() / 1e9:.1f} GB")
    return f"[{' · '.join(parts)}]"


def show_turn(session: ChatSession, turn: Iterable[Event], printer: Printer) -> int:
    """Prints the events of a turn as they come.

    Returns:
        The exit status: 0, 130 if Ctrl-C stopped the turn, or 3 if the answer is not whole for another reason.
    """
    from mlx_oss.cli.remarks import ending
    from mlx_oss.events import Finished

    with interruptible(session.cancel) as interrupted:
        stopped, remark = False, ""
        try:
            for event in turn:
                printer(event)
                if isinstance(event, Finished):
                    remark = ending(event, session.max_tokens)
                if interrupted():
                    session.cancel()  # again: Ctrl-C may have been pressed before the turn began
        except KeyboardInterrupt:  # the second Ctrl-C, or the first during a question to the user
            stopped = True
        finally:
            stopped = stopped or interrupted()
            printer.end_turn("[stopped]" if stopped else remark)
        return INTERRUPTED if stopped else CUT_OFF if remark else DONE
