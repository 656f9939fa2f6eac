"""Checks what chats use besides the model: the sandbox of the Python tool, optional packages, the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from mlx_oss.doctor.findings import REPORT_IT, Finding

_EXTRAS = {
    "constrain": (("llguidance",), "answers of a given form"),
    "web": (("httpx2",), "the browser tool on the web"),
}


def check_sandbox() -> Iterator[Finding]:
    """Tries out the isolation of the Python tool, and each of its main promises."""
    from mlx_oss.tools.sandbox import GUARANTEES, guarantees, isolation_here
    from mlx_oss.tools.sandbox.trial import try_promises

    isolation = isolation_here()
    if isolation not in GUARANTEES:
        text = f"The Python tool has no isolation here: {isolation}."
        yield Finding("tools", "sandbox", "note", text, "Everything else works without it.", {"isolation": None})
        return
    promises = try_promises(isolation)
    held = {promise.name: promise.holds for promise in promises}
    details = {"isolation": isolation, "guarantees": guarantees(isolation), "promises": held}
    broken = [promise for promise in promises if not promise.holds]
    kept = ", ".join(promise.name for promise in promises if promise.holds)
    text = f"The Python tool runs code in isolation ({isolation}); tried and held: {kept or 'nothing'}."
    yield Finding("tools", "sandbox", "ok", text, "", details)
    for promise in broken:
        text = f"The Python tool promises of the code that {promise.text}; that does not hold here."
        yield Finding("tools", f"sandbox {promise.name}", "problem", text, f"Do not use the tool here. {REPORT_IT}")


def check_extras() -> Iterator[Finding]:
    """Lists which optional packages are installed."""
    for extra, (modules, purpose) in _EXTRAS.items():
        there = all(find_spec(module) for module in modules)
        text = f"The extra `{extra}` is {'' if there else 'not '}installed ({purpose})."
        yield Finding("extras", extra, "ok", text, "", {"installed": there})


def check_terminal() -> Iterator[Finding]:
    """Checks that the output can show the characters of answers."""
    stream, kind = sys.__stdout__, os.environ.get("TERM", "")
    encoding = getattr(stream, "encoding", None) or "none"
    details = {"encoding": encoding, "TERM": kind, "NO_COLOR": bool(os.environ.get("NO_COLOR"))}
    if encoding.lower().replace("-", "") not in ("utf8", "none"):
        text = f"The output's encoding is {encoding}, so many characters are shown as ?."
        yield Finding("terminal", "encoding", "note", text, "Set LANG to a UTF-8 locale, for example C.UTF-8.", details)
    else:
        yield Finding("terminal", "encoding", "ok", f"The output's encoding is {encoding}.", "", details)
