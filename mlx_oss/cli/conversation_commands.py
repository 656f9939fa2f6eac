"""The commands of a conversation about whole conversations, kept or in files, and about other models."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_oss.cli import kept
from mlx_oss.cli.attachments import without_attachments
from mlx_oss.cli.chat_state import ChatState
from mlx_oss.cli.kept import Kept
from mlx_oss.cli.wording import in_words
from mlx_oss.errors import MlxOssError, SessionError
from mlx_oss.files import expanded
from mlx_oss.terminal import one_line

if TYPE_CHECKING:
    from mlx_oss.chat.session import ChatSession
    from mlx_oss.generation.engine import Engine
    from mlx_oss.tokenizer import Tokenizer

_SHOWN = 20  # conversations that /sessions lists
_LONGEST = 60  # characters of a question in this list


def save(state: ChatState, argument: str) -> None:
    if not argument:
        state.notice("name a file: /save FILE")
        return
    path = expanded(argument)
    if os.path.exists(path):  # False also if the file cannot be examined; then saving reports why
        from mlx_oss.chat import session_file

        try:
            session_file.read(path)
        except SessionError:
            state.notice(one_line(f"{argument} exists and is not a saved conversation: give another name"))
            return
    state.session.save(path)
    state.notice(one_line(f"saved to {argument}"))


def load(state: ChatState, argument: str) -> None:
    if not argument:
        state.notice("name a conversation that /sessions lists, or a file: /load NAME")
        return
    found = kept.find(argument)
    model, tokenizer = state.session.model, state.session.tokenizer
    if isinstance(found, Kept):
        state.session, note = open_kept(found, model, tokenizer, state.tools)
        go_on(state, found)
    else:
        state.session, note = _open_file(found, model, tokenizer, state.tools)
        if state.keeper is not None:
            state.keeper.end()
    if note:
        state.notice(note)
    state.notice(one_line(f"loaded {argument}, turns: {state.session.turns}"))


def go_on(state: ChatState, found: Kept) -> None:
    """Lets a conversation go on in its file, or if another program writes to that, in a new one."""
    if state.keeper is not None and not state.keeper.go_on(found):
        state.notice(f"another program goes on with {found.name}, so this is kept as a new conversation")


def open_kept(found: Kept, model: Engine, tokenizer: Tokenizer, tools: dict[str, Any]) -> tuple[ChatSession, str]:
    """Opens a kept conversation. Returns it, and a note if it could not be read whole.

    Raises:
        SessionError: If nothing of it can be read.
    """
    from mlx_oss.chat import session_file
    from mlx_oss.chat.session import ChatSession

    note = ""
    try:
        session_file.read(found.path)
    except SessionError as error:
        note = one_line(f"{str(error).partition(':')[0]}: only what can be read was loaded")
    try:
        session = ChatSession.load(found.path, model, tokenizer, text_only=True, **tools)
    except SessionError:
        raise SessionError(f"nothing in {found.path} can be read: remove it, or /load another conversation") from None
    session.context_limit = model.context  # that of the model it was kept with may be shorter
    return session, "\n".join(filter(None, [note, _missing_tools(session, tools)]))


def _open_file(path: Path, model: Engine, tokenizer: Tokenizer, tools: dict[str, Any]) -> tuple[ChatSession, str]:
    from mlx_oss.chat.session import ChatSession

    try:
        session = ChatSession.load(path, model, tokenizer, **tools)
        return session, _missing_tools(session, tools)
    except SessionError as error:
        session = ChatSession.load(path, model, tokenizer, text_only=True, **tools)
        return session, one_line(f"{str(error).partition(':')[0]}: only the text was loaded; the model reads it again")


def _missing_tools(session: ChatSession, tools: dict[str, Any]) -> str:
    """A note about tools that the model may call in a conversation, and that are not run now."""
    from mlx_oss.tools.toolset import Toolset

    now = Toolset(tools.get("tools", ()), None)
    known = {tool.name for tool in now.functions} | {space.name for space in (*now.namespaces, *now.groups)}
    spaces = [*session.system_tools, *session.tool_groups]
    named = [*(tool.name for tool in session.tools), *(space.name for space in spaces)]
    missing = [name for name in named if name not in known]
    return (
        one_line(f"tools that are not run now: {', '.join(missing)}; --tool or --mcp gives them again")
        if missing
        else ""
    )


def sessions(state: ChatState, _: str) -> None:
    """Lists the kept conversations, the last one first."""
    home, found = kept.folder(), kept.all_kept()
    lines = [_line(one, is_open=state.keeper is not None and one.name == state.keeper.name) for one in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"and {len(found) - _SHOWN} older ones")
    where = "there is no home folder to keep conversations in" if home is None else f"kept in {home}"
    if state.keeper is None:
        where += "; this one is not kept"
    state.notice("\n".join([*lines, one_line(f"{where}; /load NAME goes on with one")]))


def _line(one: Kept, is_open: bool) -> str:
    """A line for a conversation: its name, how many questions it has, and the first of them."""
    try:
        questions = [entry.message for entry in one.read().entries if entry.message.role == "user"]
        turns = f"{len(questions)} question{'' if len(questions) == 1 else 's'}"
        first = " ".join(without_attachments(str(questions[0].content)).split()) if questions else ""
    except SessionError:
        turns, first = "cannot be read", ""
    first = first if len(first) <= _LONGEST else f"{first[:_LONGEST]} ..."
    today = time.strftime("%Y-%m-%d") == one.name[:10]
    return one_line(f"{one.name}{' (today)' if today else ''}, {turns}{', open' if is_open else ''}: {first}")


def export(state: ChatState, argument: str) -> None:
    if not argument:
        state.notice("name a file: /export FILE.md or /export FILE.json")
        return
    from mlx_oss.cli.export import export

    export(argument, state.session.messages)
    state.notice(one_line(f"written to {argument}"))


def models(state: ChatState, _: str) -> None:
    from mlx_oss.cli.models import lines

    state.notice("\n".join(map(one_line, lines())))


def model(state: ChatState, argument: str) -> None:
    if not argument or state.fetch is None or state.load is None:
        state.notice(one_line(f"the model is {_folder_of(state.session)}; /models lists those on this disk"))
        return
    from mlx_oss.chat.session import ChatSession

    plan = getattr(state.session.model, "plan", None)
    folder = str(state.fetch(argument, plan and plan.memory))  # the old model's memory: it will be free
    with tempfile.TemporaryDirectory(prefix="mlx-oss-") as temporary:
        file = Path(temporary) / "conversation"
        state.session.save(file, text_only=True)
        before, failure = _folder_of(state.session), None
        del state.session  # the memory may not have room for both models
        try:
            model, tokenizer = state.load(folder)
        except (MlxOssError, KeyboardInterrupt) as error:
            failure = in_words(str(error), dashes=False) or "interrupted"
            model, tokenizer = state.load(before)
        state.session = ChatSession.load(file, model, tokenizer, text_only=True, **state.tools)
        state.session.context_limit = model.context  # that of the model before may be shorter
    if failure:
        state.notice(one_line(f"error: {failure}; the model is still {before}"))
    else:
        read_again = "; it reads the conversation again" if state.session.turns else ""
        state.notice(one_line(f"the model is {folder}{read_again}"))


def _folder_of(session: ChatSession) -> str:
    return str(session.model.plan.folder) if hasattr(session.model, "plan") else type(session.model).__name__
