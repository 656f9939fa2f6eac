"""The command /set: shows and changes options of a conversation, by the names that they have on the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from mlx_oss.arguments import did_you_mean
from mlx_oss.errors import OptionError, quoted

if TYPE_CHECKING:
    from mlx_oss.chat.session import ChatSession
    from mlx_oss.cli.chat_state import ChatState

_KINDS: dict[str, Callable[[str], float | int]] = {
    "temperature": float,
    "top-p": float,
    "top-k": int,
    "min-p": float,
    "repetition-penalty": float,
    "seed": int,
    "max-tokens": int,
}
_OFF = ("off", "none", "no")  # for the last two, which have no value otherwise


def set_option(state: ChatState, argument: str) -> None:
    """Shows all options, or sets one. Raises OptionError for a wrong name or value."""
    name, _, text = argument.replace("=", " ", 1).partition(" ")
    name, text = name.removeprefix("--").replace("_", "-"), text.strip()
    if not name:
        state.notice("\n".join(f"{name} {_shown(state.session, name)}" for name in _KINDS))
        return
    if name not in _KINDS:
        guess = did_you_mean(name, _KINDS)
        raise OptionError(f"there is no option {quoted(name)}: {guess or 'give ' + ', '.join(_KINDS)}")
    if text:
        _set(state.session, name, _value(name, text))
    state.notice(f"{name} {_shown(state.session, name)}")


def _value(name: str, text: str) -> float | int | None:
    if text.lower() in _OFF and name in ("seed", "max-tokens"):
        return None
    try:
        return _KINDS[name](text)
    except ValueError:
        kind = "a whole number" if _KINDS[name] is int else "a number, such as 0.7"
        more = ", or off" if name in ("seed", "max-tokens") else ""
        raise OptionError(f"{name} is {quoted(text)}: give {kind}{more}") from None


def _set(session: ChatSession, name: str, value: float | int | None) -> None:
    key = name.replace("-", "_")
    if key != "max_tokens":
        session.options = replace(session.options, **{key: value})  # type: ignore[arg-type]
    elif value is None or value >= 1:
        session.max_tokens = None if value is None else int(value)
    else:
        raise OptionError(f"max-tokens is {value}: give at least 1, or off")


def _shown(session: ChatSession, name: str) -> str:
    key = name.replace("-", "_")
    value = session.max_tokens if key == "max_tokens" else getattr(session.options, key)
    return "off" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
