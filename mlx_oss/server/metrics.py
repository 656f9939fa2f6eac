"""Counts what the server does, and writes it in the text format of Prometheus. Knows nothing of requests."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

from mlx_oss.generation.engine import Engine, EngineStats

# Seconds; https://prometheus.io/docs/instrumenting/exposition_formats/ describes the format.
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

_OF_ENGINE: tuple[tuple[str, str, str], ...] = (  # attribute of EngineStats, name and kind of the metric
    ("running", "batch_size", "gauge"),
    ("waiting", "engine_waiting_requests", "gauge"),
    ("prompt_tokens", "engine_prompt_tokens_total", "counter"),
    ("reused_tokens", "prefix_hit_tokens_total", "counter"),
    ("prefixes", "cached_prefixes", "gauge"),
    ("cache_bytes", "cache_bytes", "gauge"),
    ("cache_limit", "cache_limit_bytes", "gauge"),
)


class Metrics:
    """What the server has done. Only for the thread of its event loop.

    Attributes:
        running: Requests that have a place, those that wait for a model included.
    """

    def __init__(self) -> None:
        self.running = 0
        self._requests = Counter[tuple[str, int]]()
        self._tokens = Counter[str]()
        self._first = [0] * (len(_BUCKETS) + 1)
        self._first_sum = 0.0

    def count_request(self, path: str, status: int) -> None:
        """Counts a response."""
        self._requests[path, status] += 1

    def count_tokens(self, *, prompt: int, reused: int, generated: int) -> None:
        """Counts the tokens of a turn."""
        self._tokens.update(prompt=prompt, reused=reused, generated=generated)

    def count_first_token(self, seconds: float) -> None:
        """Counts the time from the request to its first token."""
        self._first[bisect_left(_BUCKETS, seconds)] += 1
        self._first_sum += seconds

    def text(self, waiting: int, engine: Engine | None) -> str:
        """All metrics, in the text format of Prometheus.

        Args:
            waiting: Requests that wait for a model.
            engine: The engine that is loaded, if there is one.
        """
        return "\n".join([*self._lines(waiting, getattr(engine, "stats", None)), ""])

    def _lines(self, waiting: int, stats: EngineStats | None) -> Iterator[str]:
        yield from _metric("requests_total", "counter", {})
        for (path, status), count in sorted(self._requests.items()):
            yield _sample("requests_total", {"path": path, "status": str(status)}, count)
        for kind in ("prompt", "reused", "generated"):
            yield from _metric(f"{kind}_tokens_total", "counter", {(): self._tokens[kind]})
        yield from _metric("running_requests", "gauge", {(): self.running})
        yield from _metric("waiting_requests", "gauge", {(): waiting})
        for attribute, name, kind in _OF_ENGINE if stats is not None else ():
            yield from _metric(name, kind, {(): getattr(stats, attribute)})
        name, total = "time_to_first_token_seconds", 0
        yield from _metric(name, "histogram", {})
        for bound, count in zip((*_BUCKETS, "+Inf"), self._first, strict=True):
            total += count
            yield _sample(f"{name}_bucket", {"le": str(bound)}, total)
        yield _sample(f"{name}_sum", {}, round(self._first_sum, 6))
        yield _sample(f"{name}_count", {}, total)


def _metric(name: str, kind: str, samples: Mapping[tuple[()], float]) -> Iterator[str]:
    yield f"# TYPE mlx_oss_{name} {kind}"
    for value in samples.values():
        yield _sample(name, {}, value)


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    shown = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"mlx_oss_{name}{{{shown}}} {value}" if shown else f"mlx_oss_{name} {value}"
