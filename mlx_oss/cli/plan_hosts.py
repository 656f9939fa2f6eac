"""`mlx-oss plan --hosts`: how much of a model each of several machines takes, and the arithmetic of a token."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from mlx_oss.errors import OptionError
from mlx_oss.terminal import one_line, report

if TYPE_CHECKING:
    from mlx_oss.backend.machine import Machine
    from mlx_oss.hosts.hostfile import Hostfile
    from mlx_oss.memory.machines import Together


def show(name: str, args: argparse.Namespace) -> int:
    """Prints the plan of all machines. The exit status is 1 if the model does not fit into one of them.

    Raises:
        OptionError: If the hostfile or an option is wrong, or the model cannot be divided between so many machines.
    """
    from mlx_oss.backend.mlx_library import load_mlx
    from mlx_oss.hosts.hostfile import read

    load_mlx()
    from mlx_oss.memory.machines import plan_together, smallest_number
    from mlx_oss.models import checkpoint_of, hub_model
    from mlx_oss.weights.hub.names import NANO
    from mlx_oss.weights.layouts.checkpoint import as_converted, check_loadable

    hostfile = read(args.hosts)
    machines = _machines(hostfile, args.memory)
    checkpoint = checkpoint_of(name)
    if checkpoint.layout.must_convert and name != NANO and hub_model(name):
        checkpoint = as_converted(checkpoint)
    check_loadable(checkpoint)
    options = {"context": args.context, "chunk": args.chunk, "dtype": args.dtype}
    made = plan_together(checkpoint, machines, **options)
    enough = None
    if made.lacking:
        enough = smallest_number(checkpoint, min(machines, key=lambda machine: machine.limit), **options)
    if args.json:
        report(json.dumps(_figures(hostfile, made, enough)))
    else:
        _show(name, hostfile, made, enough, is_told=args.memory is not None)
    return 1 if made.lacking else 0


def _machines(hostfile: Hostfile, memory: str | None) -> list[Machine]:
    """The machines: as the hostfile says, or like this one; with --memory their limits."""
    from mlx_oss.backend.host_memory import this_machine
    from mlx_oss.backend.machine import mac
    from mlx_oss.memory.estimates import parse_bytes

    here = this_machine()
    found = [here if host.memory is None else mac(host.memory) for host in hostfile.hosts]
    if memory is None:
        return found
    limits = memory.split(",")
    if len(limits) not in (1, len(found)):
        raise OptionError(
            f"--memory has {len(limits)} sizes, and the hostfile {len(found)} machines: give one for each"
        )
    limits *= len(found) // len(limits)
    return [replace(machine, limit=parse_bytes(limit)) for machine, limit in zip(found, limits, strict=True)]


def _figures(hostfile: Hostfile, made: Together, enough: int | None) -> dict[str, object]:
    from mlx_oss.memory.machines import LINKS, assumptions

    step = made.step
    return {
        "fits": not made.lacking,
        "context": made.context,
        "enough_machines": enough,
        "machines": [
            {"host": host.name, "context_alone": alone, **asdict(plan), "folder": str(plan.folder)}
            for host, plan, alone in zip(hostfile.hosts, made.plans, made.alone, strict=True)
        ],
        "step": {**asdict(step), "tokens_per_second": {link: step.tokens_per_second(link) for link in LINKS}},
        "assumptions": assumptions(),
    }


def _show(name: str, hostfile: Hostfile, made: Together, enough: int | None, is_told: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from mlx_oss.memory.estimates import format_bytes

    headers = ("", "weights", "KV cache", "prefill", "peak", "limit")
    table = Table(*headers, box=None, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    labels = [hostfile.label(number) for number in range(len(hostfile.hosts))]
    for label, plan in zip(labels, made.plans, strict=True):
        weights = sum(plan.weights.values())
        sizes = (weights, plan.kv_bytes, plan.prefill_bytes, plan.whole_bytes, plan.memory)
        table.add_row(one_line(label), *map(format_bytes, sizes))
    Console(highlight=False, markup=False).print(table)
    unknown = [label for label, host in zip(labels, hostfile.hosts, strict=True) if host.memory is None and not is_told]
    if unknown:
        counts = "counts" if len(unknown) == 1 else "count"
        report(
            one_line(f'{" and ".join(unknown)} {counts} as this machine: add "memory" to the hostfile, or --memory.')
        )
    for line in _sentences(name, labels, made, enough):
        report(one_line(line))


def _sentences(name: str, labels: Sequence[str], made: Together, enough: int | None) -> list[str]:
    from mlx_oss.memory.estimates import format_bytes
    from mlx_oss.memory.machines import assumptions

    found = []
    for number in made.lacking:
        plan = made.plans[number]
        needed, limit = format_bytes(plan.whole_bytes, round_up=True), format_bytes(plan.memory)
        found.append(f"{name} does not fit: the part of {labels[number]} needs {needed}, and its limit is {limit}.")
    if made.lacking:
        more = f"It would fit into {enough} machines like the smallest one" if enough else "Use larger machines"
        return [*found, f"{more}, or use a shorter context or a smaller model."]
    found.append(f"{name} fits into these {len(labels)} machines with {made.context:,} tokens of context.")
    if made.limiting:
        smaller = " and ".join(labels[number] for number in made.limiting)
        verb = "limits" if len(made.limiting) == 1 else "limit"
        found.append(f"{smaller} {verb} the context: the others have room for {max(made.alone):,} tokens.")
    step = made.step
    found.append(
        f"For a token, each reads {format_bytes(step.read_bytes)} of weights, which takes "
        f"{_ms(step.read_seconds)}, and receives {format_bytes(step.gathered_bytes)} in {step.gathers} gathers."
    )
    found += [
        f"Waiting for them takes {_ms(seconds)} with {link}: at most {step.tokens_per_second(link):.0f} "
        "tokens a second."
        for link, seconds in step.wait_seconds.items()
    ]
    return [*found, f"{assumptions()}."]


def _ms(seconds: float) -> str:
    """Milliseconds with a digit behind the point where there are few."""
    return f"{1e3 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
