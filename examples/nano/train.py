"""Trains nano on generated dialogues: `python examples/nano/train.py OUT --minutes 75`.

Saves the checkpoint OUT every two minutes. If OUT exists, the training continues from it. Two CPU cores are enough.
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

GROUPS = 2  # groups of dialogues per step and process
PEAKS = (0.004, 1.5e-3)  # peak learning rates of Muon and AdamW
# Final share of the peak learning rate, share of the time over which it falls, steps over which it rises.
FLOOR, FALL, WARM_STEPS = 0.02, 0.9, 150
MEAN_STEPS = 200  # the weights to keep are a running mean over about this number of steps
# eps of AdamW for the unembedding. Adam divides by the size of the gradient. Every step pushes the unembedding row of a
# rare token down a little, so with a small eps this row would move as far as any other, away from its embedding; then
# nano could not copy the token. Common rows have gradients of 1e-5 to 1e-3, rare ones below 1e-7. With this eps, rare
# rows stay where they start: at their embedding.
ROWS_EPS = 1e-5
MATRICES = ("qkv.weight", "out.weight", ".up", ".down")  # the parameters that Muon trains
QUANTISE_AFTER = 0.7  # share of the time after which experts compute in MXFP4
log = logging.getLogger("nano")


def steps(rows: Rows, seed: int, window: int) -> Iterator[list[tuple[Batch, list[str]]]]:
    """Generates the data of the training steps, without end.

    Args:
        rows: The tokens with their own row.
        seed: The same seed gives the same data.
        window: Size of the sliding window.

    Yields:
        For each step, its batches; each with the intents of its dialogues.
    """
    rng, words = Random(seed), rows.words()
    while True:
        yield [batch_of([any_group(rows, words, rng)], window) for _ in range(GROUPS)]


def _rounded(number: int, multiple: int) -> int:
    """Rounds up to a multiple."""
    return -(-number // multiple) * multiple


def batch_of(groups: list[Group], window: int) -> tuple[Batch, list[str]]:
    """Pads groups to one batch.

    Args:
        groups: The groups; those with fewer conversations than others get empty ones.
        window: Size of the sliding window.

    Returns:
        The batch, and the intent of each conversation ("" for an empty one).
    """
    n_each = max(len(group.rows) for group in groups)
    n_prefix = _rounded(max(len(group.prefix) for group in groups), 32)
    n_rest = _rounded(max(len(row) for group in groups for row in group.rows), 32)
    front = np.full((len(groups), n_prefix), -1)
    rest = np.full((len(groups), n_each, n_rest), -1)
    learned = np.zeros(rest.shape, bool)
    starts = np.array([len(group.prefix) for group in groups])
    for number, group in enumerate(groups):
        front[number, : len(group.prefix)] = group.prefix
        for index, (row, mask) in enumerate(zip(group.rows, group.masks, strict=True)):
            rest[number, index, : len(row)] = row
            learned[number, index, : len(row)] = mask
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
    index_of_slot = np.full(len(flat), -1)
    index_of_slot[slots] = np.arange(len(slots))
    targets = front.size + np.flatnonzero(learned.ravel())
    n_pad = -len(targets) % (2 * ROUND)
    learn = np.pad(index_of_slot[targets - 1], (0, n_pad))
    reaches = (1 << 30, window)  # of full layers, of sliding layers
    batch = Batch(
        torch.from_numpy(flat[slots]).clamp_min(0),
        torch.from_numpy(positions[slots]),
        torch.from_numpy(slots),
        (len(groups), n_each, n_prefix, n_rest),
        tuple(prefix_mask(starts, n_prefix, reach) for reach in reaches),
        tuple(rest_mask(starts, n_each, n_prefix, n_rest, reach) for reach in reaches),
        torch.from_numpy(learn),
        torch.from_numpy(np.pad(flat[targets], (0, n_pad), constant_values=-100)),
    )
    intents = [intent for group in groups for intent in group.intents + [""] * (n_each - len(group.intents))]
    return batch, intents


def _bias(seen: np.ndarray) -> Tensor:
    """Boolean mask (..., keys) -> mask to add to scores (..., keys + 1); the added key, the sink, is always seen."""
    seen = np.concatenate([seen, np.ones((*seen.shape[:-1], 1), bool)], -1)
    return torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill_(~torch.from_numpy(seen), float("-inf"))[:, None]


def prefix_mask(starts: np.ndarray, n_prefix: int, reach: int) -> Tensor:
    """The mask of the prefix tokens (`model.Batch.prefix_masks`) for layers that see `reach` tokens."""
    query, key = np.arange(n_prefix)[:, None], np.arange(n_prefix)
    return _bias(np.broadcast_to((key <= query) & (query - key < reach), (len(starts), n_prefix, n_prefix)))


def rest_mask(starts: np.ndarray, n_each: int, n_prefix: int, n_rest: int, reach: int) -> Tensor:
    """The mask of the continuations (`model.Batch.masks`) for layers that see `reach` tokens.

    Args:
        starts: Length of the prefix of each group.
        n_each: Continuations per group.
        n_prefix: Padded length of the prefixes.
        n_rest: Padded length of the continuations.
        reach: Number of tokens that a token attends to, itself included.
    """
    query, key, front = (np.arange(n_rest)[:, None], np.arange(n_rest), np.arange(n_prefix))
    own = np.broadcast_to((key <= query) & (query - key < reach), (len(starts), n_rest, n_rest))
    distance = starts[:, None, None] + query - front
    before = (front < starts[:, None, None]) & (distance < reach)
    return _bias(np.repeat(np.concatenate([before, own], -1), n_each, 0))


def loss_of(model: Nano, batch: Batch, total: int) -> Tensor:
    """The loss of a batch, as its part of a step with `total` targets: cross entropy and 0.01 of the balance loss."""
    loss = functional.cross_entropy(model(batch), batch.targets, reduction="sum") / total
    return loss + 0.01 * sum(experts.balance for experts in model.experts) * len(batch.targets) / total


@torch.no_grad()
def exact(model: Nano, held_out: list[list[tuple[Batch, list[str]]]]) -> dict[str, tuple[int, int]]:
    """Counts the dialogues whose learned tokens greedy decoding would all write as generated.

    Returns:
        intent -> (number of such dialogues, number of all dialogues).
    """
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
    """The current share of the peak learning rate: a short rise, a plateau, and a linear fall to `FLOOR`."""
    fall = min(1.0, max(0.0, (1 - progress) / FALL))
    return (FLOOR + (1 - FLOOR) * fall) * min(1.0, (step + 1) / WARM_STEPS)


def first_weights(source: Path) -> dict[str, Any]:
    """Loads a checkpoint, or an archive (.xz). An archive gets rows for all tokens that the dialogues use now."""
    if source.suffix != ".xz":
        return torch.load(source, weights_only=False)
    ids, state = bundle.with_rows(*bundle.read(source), choose_rows().ids)
    return {"ids": ids, "model": state}


class Run:
    """A model in training, with everything that is needed to restart.

    Args:
        path: The checkpoint. If it exists, the training continues from it.
        minutes: Length of the training, over which the learning rates fall.
        start: Checkpoint or archive with the first weights. Only used if `path` does not exist.
        rate_factor: Factor on all learning rates.
    """

    def __init__(self, path: Path, minutes: float, start: Path | None, rate_factor: float):
        self.path, self.minutes, self.rate_factor = path, minutes, rate_factor
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
        """Share of the training time that has passed."""
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
        """Averages the gradients, the loss and the clock over all processes, in one message. Returns the mean loss."""
        parameters = list(self.model.parameters())
        flat = torch.cat([*(p.grad.flatten() for p in parameters), torch.tensor([loss, self.seconds])])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        for p, grad in zip(parameters, flat[:-2].split([p.numel() for p in parameters]), strict=True):
            p.grad.copy_(grad.view_as(p))
        self.seconds = flat[-1].item()
        return flat[-2].item()

    def train_step(self, parts: list[tuple[Batch, list[str]]]) -> float:
        """Makes one step on the batches; returns the loss."""
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
                group["lr"] = peak * self.rate_factor * rate(self.progress, self.step)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        with torch.no_grad():
            weight = 1 / min(self.step, MEAN_STEPS)
            torch._foreach_lerp_(list(self.mean.parameters()), list(self.model.parameters()), weight)
        return loss


def report(run: Run, held_out: list[list[tuple[Batch, list[str]]]]) -> None:
    """Logs how many of the held-out generated dialogues are exactly right, and the worst intents."""
    run.mean.quantise(True)
    counts = exact(run.mean, held_out)
    right, all_ = (sum(column) for column in zip(*counts.values(), strict=True))
    worst = sorted((n / of, f"{intent} {n}/{of}") for intent, (n, of) in counts.items() if n < of)
    log.info(
        "%.3f of %d dialogues exactly right; worst intents: %s",
        right / all_,
        all_,
        ", ".join(text for _, text in worst[:24]),
    )


def work(rank: int, arguments: argparse.Namespace) -> None:
    """Runs one of the training processes. Each uses one core and generates its own dialogues."""
    logging.basicConfig(level=logging.ERROR if rank else logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    rendezvous = f"file://{arguments.out.resolve()}.meet"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=arguments.processes)
    run = Run(arguments.out, arguments.minutes, arguments.start, arguments.rate)
    log.info("%d parameters, step %d", sum(p.numel() for p in run.model.parameters()), run.step)
    window = run.model.shape.window
    held_out = list(islice(steps(run.rows, 987_654_321, window), 15))
    losses: list[float] = []
    previous, saved, reported = time.monotonic(), run.seconds, run.seconds
    for parts in steps(run.rows, run.step * 100 + rank + 1, window):
        losses.append(run.train_step(parts))
        now = time.monotonic()
        run.seconds, previous = run.seconds + now - previous, now
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
    parser.add_argument("out", type=Path, help="checkpoint to write; if it exists, training continues from it")
    parser.add_argument("--minutes", type=float, default=75.0, help="training time, over which the learning rate falls")
    parser.add_argument("--start", type=Path, help="checkpoint or archive with the first weights")
    parser.add_argument(
        "--rate", type=float, default=1.0, help="factor on the learning rates; below 1 to fine-tune START"
    )
    parser.add_argument("--processes", type=int, default=2, help="number of processes; each uses one core")
    arguments = parser.parse_args()
    Path(f"{arguments.out.resolve()}.meet").unlink(missing_ok=True)
    multiprocessing.spawn(work, (arguments,), arguments.processes)


if __name__ == "__main__":
    main()
