"""Many clients that do anything with `mlx-oss serve` at the same time, on nano.

    python -m tests.soak_server [--minutes 5] [--clients 200] [--seed 0] [--patience 300]

Clients ask by all three APIs, streamed and not, alone and in conversations with tools; they leave in the middle, read
slowly, and send requests of real clients (tests/server/clients) with random changes. Every response has to be one that
the API describes: no status above 499 but 503, and each stream that is read to its end has its last event. Prints what
accumulates each minute, and in the end the time to the first token and what the server holds. The exit status is 1 if a
response was none of these, or the server has lost memory or requests.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLIENTS = Path(__file__).parent / "server" / "clients"
WORDS = "Who are you? What is harmony? How large is gpt-oss-20b? Tell me of MLX. What is 3 plus 4? Hello!".split("? ")
ALLOWED = {200, 400, 404, 413, 415, 429, 503}
LAST = {"/v1/responses": "[DONE]", "/v1/chat/completions": "[DONE]", "/v1/messages": "message_stop"}
STRANGE: list[Any] = [None, True, -1, 1e300, "", "x", "\ud800", [], {}, [[]], {"type": "image"}, "a" * 5000, 2**70]


@dataclass
class Record:
    """What has happened."""

    started: float = field(default_factory=time.monotonic)
    statuses: Counter[int] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Client:
    """One client, which does one thing after another."""

    def __init__(self, number: int, port: int, record: Record, seed: int, patience: float) -> None:
        self._random = random.Random(f"{seed} {number}")
        self._port, self._record, self._patience = port, record, patience
        self._bodies = [json.loads(path.read_text()) for path in sorted(CLIENTS.glob("*.json"))]
        self._bodies = [each for each in self._bodies if each.get("body") and each["path"].partition("?")[0] in LAST]

    async def act(self) -> None:
        action = self._random.choices(("ask", "stream", "leave", "slow", "mutated", "talk"), (3, 6, 3, 1, 6, 3))[0]
        self._record.actions[action] += 1
        path = self._random.choice(list(LAST))
        try:
            async with asyncio.timeout(self._patience):
                if action == "mutated":
                    await self._send_mutated()
                elif action == "talk":
                    await self._talk(path)
                else:
                    await self._send(path, self._body(path, stream=action != "ask"), action)
        except TimeoutError:
            self._record.wrong.append(f"{action} on {path} took more than {self._patience:.0f} s")
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self._record.wrong.append(f"{action} on {path}: the connection broke: {error!r}")

    def _body(self, path: str, stream: bool, question: str | None = None) -> dict[str, Any]:
        text = question or self._random.choice(WORDS)
        most = self._random.randrange(1, 30)
        if path == "/v1/responses":
            return {"input": text, "stream": stream, "max_output_tokens": max(16, most)}
        key = "max_tokens" if path == "/v1/messages" else "max_completion_tokens"
        return {"model": "nano", "messages": [{"role": "user", "content": text}], "stream": stream, key: most}

    async def _talk(self, path: str) -> None:
        """A conversation that grows, and is sent whole each time."""
        body = self._body(path, stream=False)
        for _ in range(self._random.randrange(2, 5)):
            status, data = await self._send(path, body, "ask")
            if status != 200:
                return
            response, again = json.loads(data), {"role": "user", "content": self._random.choice(WORDS)}
            if path == "/v1/responses":
                said = (
                    body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
                )
                body["input"] = [*said, *response["output"], again]
            elif path == "/v1/messages":
                body["messages"] += [{"role": "assistant", "content": response["content"]}, again]
            else:
                body["messages"] += [response["choices"][0]["message"], again]

    async def _send_mutated(self) -> None:
        asked = copy.deepcopy(self._random.choice(self._bodies))
        body, path = asked["body"], asked["path"]
        for key in ("max_tokens", "max_output_tokens", "max_completion_tokens"):
            if key in body:
                body[key] = 16
        body["model"] = "nano"
        for _ in range(self._random.randrange(1, 4)):
            self._mutate(body)
        data = json.dumps(body).encode()
        if self._random.random() < 0.1:
            data = data[: self._random.randrange(len(data))]
        await self._send(path, data, "mutated")

    def _mutate(self, value: Any) -> None:
        """Changes something in it."""
        places = list(_places(value))
        if not places:
            return
        holder, key = self._random.choice(places)
        match self._random.randrange(4):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case 2:
                holder[key] = [holder[key]]
            case _:
                holder[key] = copy.deepcopy(self._random.choice(STRANGE))

    async def _send(self, path: str, body: Any, action: str) -> tuple[int, bytes]:
        """Sends a request and reads the response; returns its status and body, as far as it was read."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        started = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            if action == "leave" and self._random.random() < 0.3:
                await asyncio.sleep(self._random.random() * 0.2)
                return 0, b""
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(b" ", 2)[1])
            self._record.statuses[status] += 1
            if status not in ALLOWED:
                self._record.wrong.append(f"{status} for {data[:2000]!r}: {(await reader.read())[:500]!r}")
                return status, b""
            is_stream = b"text/event-stream" in answer
            got = await self._read(reader, action, is_stream, started)
            if is_stream and action not in ("leave",):
                self._check_end(path.partition("?")[0], got)
            return status, got
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, action: str, is_stream: bool, started: float) -> bytes:
        got, left, is_first = b"", self._random.randrange(1, 4000), True
        while piece := await reader.read(64 if action == "slow" else 65536):
            got += piece
            if is_stream and is_first and (b"delta" in got):
                self._record.first.append(time.monotonic() - started)
                is_first = False
            if action == "leave" and len(got) > left:
                return got
            if action == "slow":
                await asyncio.sleep(0.01)
        return got

    def _check_end(self, path: str, got: bytes) -> None:
        last = [line for line in got.decode(errors="replace").split("\n") if line.startswith(("data:", "event:"))][-2:]
        text = " ".join(last)
        if LAST[path] not in text and not (path == "/v1/messages" and "event: error" in text):
            self._record.wrong.append(f"the stream of {path} ends with {text[:300]}")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in JSON, as what holds it and its key."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            found.append((holder, key))
            waiting.append(holder[key])
    return found


async def _get(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    data = (await reader.read()).decode()
    writer.close()
    return data.partition("\r\n\r\n")[2]


async def _watch_health(port: int, record: Record) -> None:
    while True:
        started = time.monotonic()
        await _get(port, "/health")
        record.health.append(time.monotonic() - started)
        await asyncio.sleep(1)


async def _soak(args: argparse.Namespace, process: subprocess.Popen[str], port: int) -> list[str]:
    record, end = Record(), time.monotonic() + 60 * args.minutes
    warm = Client(-1, port, Record(), 0, 300)
    await warm._send("/v1/responses", {"input": "Hi", "max_output_tokens": 16}, "ask")

    async def work(number: int) -> None:
        client = Client(number, port, record, args.seed, args.patience)
        while time.monotonic() < end:
            await client.act()

    async def report() -> None:
        while True:
            await asyncio.sleep(min(60, 12 * args.minutes))
            _say(f"{time.monotonic() - record.started:.0f} s: {_state(record)}, {_resident_mb(process.pid)} MB")

    watching = [asyncio.ensure_future(each) for each in (_watch_health(port, record), report())]
    await asyncio.gather(*(work(number) for number in range(args.clients)))
    for each in watching:
        each.cancel()
    _say(f"{time.monotonic() - record.started:.0f} s: {_state(record)}, {_resident_mb(process.pid)} MB")
    for _ in range(100):
        metrics = await _get(port, "/metrics")
        held = {name: float(re.findall(rf"^mlx_oss_{name} (\S+)$", metrics, re.M)[0]) for name in HELD}
        if not any(held.values()):
            break
        await asyncio.sleep(0.2)
    else:
        record.wrong.append(f"the server still has {held}")
    first, health = sorted(record.first), sorted(record.health)
    middle, late = first[len(first) // 2], first[int(len(first) * 0.99)]
    _say(f"time to the first token: median {middle:.2f} s, 99 % within {late:.2f} s, at most {first[-1]:.2f} s")
    _say(f"health answered within {health[-1]:.2f} s, median {health[len(health) // 2] * 1000:.0f} ms")
    _say(", ".join(f"{count} {action}" for action, count in sorted(record.actions.items())))
    return record.wrong


HELD = ("running_requests", "waiting_requests", "engine_waiting_requests", "batch_size")


def _state(record: Record) -> str:
    return (
        f"{sum(record.statuses.values())} responses {dict(sorted(record.statuses.items()))}, {len(record.wrong)} wrong"
    )


def _resident_mb(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=300, help="seconds that a client waits for a response")
    parser.add_argument("--max-requests", type=int, default=256)
    args = parser.parse_args()
    command = [sys.executable, "-m", "mlx_oss", "serve", "--port", "0", "--max-requests", str(args.max_requests)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        port = 0
        while not port:
            found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
            port = int(found[1]) if found else 0
        try:
            wrong = asyncio.run(_soak(args, process, port))
        finally:
            process.terminate()
        if status := process.wait(60):
            wrong.append(f"the server ended with {status}")
    for what in wrong[:20]:
        _say(what)
    _say(f"{len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
