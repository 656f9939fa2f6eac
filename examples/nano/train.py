"""Trains nano on generated dialogues: `python examples/nano/train.py OUT --minutes 75`.

Writes OUT every few minutes and goes on from it when started again. Two CPU cores are enough.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import bundle
import numpy as np
import torch
from model import ROUND, Batch, Nano, Shape
from muon import Muon
from sequences import Group, any_group, choose_rows
from torch import Tensor, distributed, multiprocessing
from torch.nn import functional
from vocabulary import Rows

GROUPS = 2  # groups of dialogues a step and process
PEAKS = (0.004, 1.5e-3)  # learning rates of Muon and AdamW
FLOOR, FALL, WARM_STEPS = 0.02, 0.9, 150  # last share of the learning rate, time of the fall, steps of the rise
MEAN_STEPS = 200  # the weights that are kept are a running mean over about so many steps
# Adam divides by the size of the gradient, so a rare token's row, pushed down a little in every step, would run as
# far as any other and away from its embedding; then nothing can be copied. With this eps (common rows have gradients
# of 1e-5 to 1e-3, rare ones below 1e-7) rare rows stay where they start: at their embedding.
ROWS_EPS = 1e-5
MATRICES = ("qkv.weight", "out.weight", ".up", ".down")  # what Muon trains
QUANTISE_AFTER = 0.7  # share of the time after which experts compute in MXFP4
log = logging.getLogger("nano")


def steps(rows: Rows, seed: int, window: int) -> Iterator[list[tuple[Batch, list[str]]]]:
    """Endless steps, each some batches and the intents of their dialogues."""
    rng, words = Random(seed), rows.words()
    while True:
        yield [batch_of([any_group(rows, words, rng)], window) for _ in range(GROUPS)]


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def batch_of(groups: list[Group], window: int) -> tuple[Batch, list[str]]:
    each = max(len(group.rows) for group in groups)
    n_prefix = _rounded(max(len(group.prefix) for group in groups), 32)
    n_rest = _rounded(max(len(row) for group in groups for row in group.rows), 32)
    front = np.full((len(groups), n_prefix), -1)
    rest = np.full((len(groups), each, n_rest), -1)
    learned = np.zeros(rest.shape, bool)
    starts = np.array([len(group.prefix) for group in groups])
    for number, group in enumerate(groups):
        front[number, : len(group.prefix)] = group.prefix
        for place, (row, mask) in enumerate(zip(group.rows, group.masks, strict=True)):
            rest[number, place, : len(row)] = row
            learned[number, place, : len(row)] = mask
    flat = np.concatenate([front.ravel(), rest.ravel()])
    slots = np.flatnonzero(flat >= 0)
    unused = np.flatnonzero(flat < 0)[: _rounded(len(slots), 2 * ROUND) - len(slots)]
    slots = np.concatenate([slots, unused])
    positions = np.concatenate(
        [
            np.tile(np.arange(n_prefix), len(groups)),
            (starts[:, None, None] + np.broadcast_to(np.arange(n_rest), rest.shape)).ravel(),
        ]
    )
    where = np.full(len(flat), -1)
    where[slots] = np.arange(len(slots))
    targets = front.size + np.flatnonzero(learned.ravel())
    n_pad = -len(targets) % (2 * ROUND)
    learn = np.pad(where[targets - 1], (0, n_pad))
    reaches = (1 << 30, window)
    batch = Batch(
        torch.from_numpy(flat[slots]).clamp_min(0),
        torch.from_numpy(positions[slots]),
        torch.from_numpy(slots),
        (len(groups), each, n_prefix, n_rest),
        tuple(prefix_mask(starts, n_prefix, reach) for reach in reaches),
        tuple(rest_mask(starts, each, n_prefix, n_rest, reach) for reach in reaches),
        torch.from_numpy(learn),
        torch.from_numpy(np.pad(flat[targets], (0, n_pad), constant_values=-100)),
    )
    intents = [intent for group in groups for intent in group.intents + [""] * (each - len(group.intents))]
    return batch, intents


def _bias(seen: np.ndarray) -> Tensor:
    seen = np.concatenate([seen, np.ones((*seen.shape[:-1], 1), bool)], -1)
    return torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill_(~torch.from_numpy(seen), float("-inf"))[:, None]


def prefix_mask(starts: np.ndarray, n_prefix: int, reach: int) -> Tensor:
    query, key = np.arange(n_prefix)[:, None], np.arange(n_prefix)
    return _bias(np.broadcast_to((key <= query) & (query - key < reach), (len(starts), n_prefix, n_prefix)))


def rest_mask(starts: np.ndarray, each: int, n_prefix: int, n_rest: int, reach: int) -> Tensor:
    query, key, front = (np.arange(n_rest)[:, None], np.arange(n_rest), np.arange(n_prefix))
    own = np.broadcast_to((key <= query) & (query - key < reach), (len(starts), n_rest, n_rest))
    distance = starts[:, None, None] + query - front
    before = (front < starts[:, None, None]) & (distance < reach)
    return _bias(np.repeat(np.concatenate([before, own], -1), each, 0))


def loss_of(model: Nano, batch: Batch, total: int) -> Tensor:
    loss = functional.cross_entropy(model(batch), batch.targets, reduction="sum") / total
    return loss + 0.01 * sum(experts.balance for experts in model.experts) * len(batch.targets) / total


@torch.no_grad()
def exact(model: Nano, held_out: list[list[tuple[Batch, list[str]]]]) -> dict[str, tuple[int, int]]:
    """By intent: dialogues whose last turn a greedy decoder would write exactly as generated, and all of them."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for step in held_out:
        for batch, intents in step:
            wrong = (model(batch).argmax(1) != batch.targets) & (batch.targets >= 0)
            n_groups, n_each, n_prefix, n_rest = batch.padded
            sequence = (batch.slots[batch.learn] - n_groups * n_prefix).clamp_min(0) // n_rest
            bad = torch.zeros(n_groups * n_each).index_add(0, sequence, wrong.float())
            for intent, errors in zip(intents, bad.tolist(), strict=True):
                if intent:
                    counts[intent][0] += errors == 0
                    counts[intent][1] += 1
    return {intent: (right, all_) for intent, (right, all_) in counts.items()}


def rate(progress: float, step: int) -> float:
    """Share of the peak learning rate: a short rise, a plateau, and a straight fall over the last part of the time."""
    fall = min(1.0, max(0.0, (1 - progress) / FALL))
    return (FLOOR + (1 - FLOOR) * fall) * min(1.0, (step + 1) / WARM_STEPS)


def first_weights(source: Path) -> dict[str, Any]:
    """A checkpoint; or the weights of an archive, with rows for all tokens that the dialogues use by now."""
    if source.suffix != ".xz":
        return torch.load(source, weights_only=False)
    ids, state = bundle.with_rows(*bundle.read(source), choose_rows().ids)
    return {"ids": ids, "model": state}


class Run:
    """A model in training, with everything a restart needs."""

    def __init__(self, path: Path, minutes: float, start: Path | None, share: float):
        self.path, self.minutes, self.share = path, minutes, share
        source = path if path.exists() else start
        saved = first_weights(source) if source else None
        self.rows = Rows(saved["ids"]) if saved else choose_rows()
        torch.manual_seed(0)
        self.model = Nano(Shape(len(self.rows.ids)))
        hidden = [p for name, p in self.model.named_parameters() if name.endswith(MATRICES)]
        rows = [self.model.unembedding]
        others = [p for p in self.model.parameters() if not any(p is other for other in (*hidden, *rows))]
        groups = [{"params": others}, {"params": rows, "eps": ROWS_EPS}]
        self.optimizers = [Muon(hidden), torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]
        self.step, self.seconds = 0, 0.0
        if saved:
            self.model.load_state_dict(saved["model"])
            if source == path:
                self.model.load_state_dict(saved["latest"])
                self.step, self.seconds = saved["step"], saved["seconds"]
                for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                    optimizer.load_state_dict(state)
        self.mean = copy.deepcopy(self.model)
        if saved:
            self.mean.load_state_dict(saved["model"])

    @property
    def progress(self) -> float:
        return self.seconds / (60 * self.minutes)

    def save(self) -> None:
        state = {
            "ids": self.rows.ids,
            "model": self.mean.state_dict(),
            "latest": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, self.path.with_suffix(".part"))
        self.path.with_suffix(".part").rename(self.path)

    def average_gradients(self, loss: float) -> float:
        """Over all processes, in one message; the loss and the clock travel along."""
        parameters = list(self.model.parameters())
        flat = torch.cat([*(p.grad.flatten() for p in parameters), torch.tensor([loss, self.seconds])])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        for p, grad in zip(parameters, flat[:-2].split([p.numel() for p in parameters]), strict=True):
            p.grad.copy_(grad.view_as(p))
        self.seconds = flat[-1].item()
        return flat[-2].item()

    def train_step(self, parts: list[tuple[Batch, list[str]]]) -> float:
        self.model.quantise(self.progress > QUANTISE_AFTER)
        total = sum(len(batch.targets) for batch, _ in parts)
        loss = 0.0
        for batch, _ in parts:
            part = loss_of(self.model, batch, total)
            part.backward()
            loss += part.item()
        loss = self.average_gradients(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, peak in zip(self.optimizers, PEAKS, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * self.share * rate(self.progress, self.step)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        with torch.no_grad():
            weight = 1 / min(self.step, MEAN_STEPS)
            torch._foreach_lerp_(list(self.mean.parameters()), list(self.model.parameters()), weight)
        return loss


def report(run: Run, held_out: list[list[tuple[Batch, list[str]]]]) -> None:
    run.mean.quantise(True)
    counts = exact(run.mean, held_out)
    right, all_ = (sum(column) for column in zip(*counts.values(), strict=True))
    worst = sorted((n / of, f"{intent} {n}/{of}") for intent, (n, of) in counts.items() if n < of)
    log.info("exact %.3f of %d; worst: %s", right / all_, all_, ", ".join(text for _, text in worst[:24]))


def work(rank: int, arguments: argparse.Namespace) -> None:
    """One of the processes that train together, each on one core with its own dialogues."""
    logging.basicConfig(level=logging.ERROR if rank else logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    meet = f"file://{arguments.out.resolve()}.meet"
    distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=arguments.processes)
    run = Run(arguments.out, arguments.minutes, arguments.start, arguments.rate)
    log.info("%d parameters, step %d", sum(p.numel() for p in run.model.parameters()), run.step)
    window = run.model.shape.window
    held_out = list(islice(steps(run.rows, 987_654_321, window), 15))
    losses: list[float] = []
    then, saved, reported = time.monotonic(), run.seconds, run.seconds
    for parts in steps(run.rows, run.step * 100 + rank + 1, window):
        losses.append(run.train_step(parts))
        now = time.monotonic()
        run.seconds, then = run.seconds + now - then, now
        if run.step % 50 == 0:
            loss, share = sum(losses) / len(losses), rate(run.progress, run.step)
            log.info("step %d loss %.4f rate %.3f, %.1f min", run.step, loss, share, run.seconds / 60)
            losses.clear()
        done = run.progress >= 1
        if rank == 0 and (run.seconds - saved > 120 or done):
            run.save()
            saved = run.seconds
        if rank == 0 and (run.seconds - reported > 300 or done):
            report(run, held_out)
            reported = run.seconds
        if done:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="checkpoint to write, and to go on from if it exists")
    parser.add_argument("--minutes", type=float, default=75.0, help="training time; the learning rate falls over it")
    parser.add_argument("--start", type=Path, help="checkpoint or archive to take the first weights from")
    parser.add_argument("--rate", type=float, default=1.0, help="share of the learning rates; less to go on from START")
    parser.add_argument("--processes", type=int, default=2, help="processes, one core each")
    arguments = parser.parse_args()
    Path(f"{arguments.out.resolve()}.meet").unlink(missing_ok=True)
    multiprocessing.spawn(work, (arguments,), arguments.processes)


if __name__ == "__main__":
    main()
