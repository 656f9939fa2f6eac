"""Calls that wait for the reader's approval, each with a key that nobody can guess. Knows nothing of what they do."""

from __future__ import annotations

import asyncio
import secrets


class Approvals:
    """What the reader is asked. Only for the thread of the event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[bool]] = {}

    def ask(self) -> str:
        """Adds a question. Returns its key."""
        key = secrets.token_urlsafe()
        self._waiting[key] = asyncio.get_running_loop().create_future()
        return key

    async def answered(self, key: str) -> bool:
        """Waits for the answer to a question. It cannot be answered any more if the wait is cancelled."""
        try:
            return await self._waiting[key]
        finally:
            self.forget(key)

    def answer(self, key: str, may_run: bool) -> bool:
        """Answers a question. False if none with this key waits."""
        future = self._waiting.get(key)
        if future is None or future.done():
            return False
        future.set_result(may_run)
        return True

    def forget(self, key: str) -> None:
        """Takes a question back."""
        self._waiting.pop(key, None)
