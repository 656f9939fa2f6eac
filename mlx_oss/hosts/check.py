"""The steps of `mlx-oss hosts check`, and what each has found. Every step ends by itself after a time.

Knows nothing of how findings are shown.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mlx_oss.doctor.findings import Finding
from mlx_oss.doctor.host import Ended
from mlx_oss.hosts import reach
from mlx_oss.hosts.hostfile import Hostfile
from mlx_oss.hosts.reach import LOCAL, PATIENCE, answer_of, run_on, run_on_all
from mlx_oss.hosts.worker import SECONDS

PORT = 32323  # the first of mlx.launch
_SLACK = 15.0  # seconds that a job gets in addition, to end by itself
_SLOW = 1e-3  # seconds of a small gather


@dataclass(frozen=True)
class Check:
    """Checks the machines of a hostfile.

    Args:
        hostfile: The machines.
        model: Name or folder of the model that they are to compute.
        python: The Python that runs mlx-oss on all of them.
        port: The first port over which they exchange numbers.
    """

    hostfile: Hostfile
    model: str
    python: str = sys.executable
    port: int = PORT

    def steps(self) -> Iterator[Finding]:
        """What each step has found. What needs a step that has failed is left out, and said to be."""
        reached = self._each(self._reached)
        yield from reached
        if _failed(reached):
            yield _left_out("the other steps", "all machines can be reached")
            return
        facts = self._each(self._facts)
        yield from (fact for fact in facts if isinstance(fact, Finding))
        known = [fact for fact in facts if isinstance(fact, dict)]
        if len(known) < len(facts):
            yield _left_out("the other steps", "mlx-oss runs on all machines")
            return
        found = [*self._versions(known), *self._files(known)]
        yield from found
        yield from self._addresses(known)
        if _failed(found):
            yield _left_out("the gather and the self-test", "all machines have the same")
            return
        gathered = self._gather()
        yield gathered
        if gathered.level == "problem":
            yield _left_out("the self-test", "the machines reach each other")
            return
        yield self._self_test()

    def _each(self, step: Any) -> list[Any]:
        numbers = range(len(self.hostfile.hosts))
        with ThreadPoolExecutor(len(numbers)) as threads:
            try:
                return list(threads.map(step, numbers))
            except BaseException:  # Ctrl-C, for example: the threads wait for what runs on the machines
                reach.stop()
                raise

    def _reached(self, number: int) -> Finding:
        name, label = self.hostfile.hosts[number].name, self.hostfile.label(number)
        if name == LOCAL:
            return _ok("reach", f"{label} is this machine.")
        ended = run_on(name, ["true"], PATIENCE)
        if ended.status == 0:
            return _ok("reach", f"{label} is reached by ssh.")
        if ended.status is None:
            text = f"{label} has not answered ssh within {PATIENCE:g} s."
            remedy = "Is it switched on and awake, and in the same network? `sudo pmset -a sleep 0` keeps a Mac awake."
            return _problem("reach", text, remedy)
        remedy = (
            f"Turn on Remote Login there (System Settings, General, Sharing), then run `ssh-copy-id {name}` and "
            f"`ssh {name}` once: it must ask nothing."
        )
        if ended.status == 127:
            remedy = "Install ssh on this machine."
        return _problem("reach", f"{label} is not reached by ssh ({_reason(ended)}).", remedy)

    def _facts(self, number: int) -> Finding | dict[str, Any]:
        """What a machine says of itself, or why it does not."""
        label = self.hostfile.label(number)
        command = reach.worker(self.python, "facts", self.model)
        ended = run_on(self.hostfile.hosts[number].name, command, SECONDS["facts"] + _SLACK)
        answer = answer_of(ended)
        if answer is not None and "error" not in answer:
            return answer
        if answer is not None:
            return _problem("files", f"{label}: {answer['error']}.", "Name a model that is the same on all machines.")
        if ended.status in (126, 127):
            text = f"{label} cannot run {self.python} ({_reason(ended)})."
            remedy = "Install mlx-oss at the same place on all machines, or name the Python with --python."
        elif ended.status is None:
            text, remedy = f"{label} has not said within {SECONDS['facts']} s what it has.", "Is it busy? Try again."
        else:
            text = f"mlx-oss does not run on {label} ({_reason(ended)})."
            remedy = f"Install the same version there as here: `{self.python} -m pip install` there says more."
        return _problem("versions", text, remedy)

    def _versions(self, known: list[dict[str, Any]]) -> Iterator[Finding]:
        first, before = known[0]["versions"], len(known)
        for number, facts in enumerate(known):
            for what, value in facts["versions"].items():
                if value != first[what]:
                    text = (
                        f"{self.hostfile.label(number)} has {what} {value}, and {self.hostfile.label(0)} {first[what]}."
                    )
                    yield _problem("versions", text, "Install the same version on both.")
                    before = 0
        if before:
            listed = ", ".join(f"{what} {value}" for what, value in first.items())
            yield _ok("versions", f"All {before} machines have {listed}.")

    def _files(self, known: list[dict[str, Any]]) -> Iterator[Finding]:
        """Compares the files of the model with those of the first machine that has it."""
        missing = [number for number, facts in enumerate(known) if facts["model"] is None]
        for number in missing:
            text = f"{self.hostfile.label(number)} does not have {self.model}."
            yield _problem("files", text, f"Run `mlx-oss pull {self.model}` there.")
        having = [(number, facts["model"]) for number, facts in enumerate(known) if facts["model"] is not None]
        different, first = False, self.hostfile.label(having[0][0] if having else 0)
        for number, model in having[1:]:
            if what := _difference(having[0][1], model):
                different = True
                text = f"{self.model} differs between {first} and {self.hostfile.label(number)}: {what}."
                yield _problem("files", text, f"Copy {having[0][1]['folder']} to the other machine.")
        if not missing and not different:
            with_manifest = having[0][1]["conversion.json"] is not None
            how = "checksums of all weights, by its manifest" if with_manifest else "sizes and headers"
            text = f"{self.model} is the same on all machines ({how})"
            yield _ok("files", f"{text}; `mlx-oss verify` reads all bytes." if with_manifest else f"{text}.")

    def _addresses(self, known: list[dict[str, Any]]) -> Iterator[Finding]:
        for number, (host, facts) in enumerate(zip(self.hostfile.hosts, known, strict=True)):
            for ip in host.ips:
                yield self._address(self.hostfile.label(number), ip, facts["addresses"])

    def _address(self, label: str, ip: str, known: list[list[str]]) -> Finding:
        if not _is_address(ip):
            return _note(
                f"{ip} of {label} is a name: which interface it leads to was not checked.", "Write its address."
            )
        if not known:
            return _note(f"{label} does not say which interface {ip} is on.", "Check that it is not Wi-Fi.")
        for address, name, kind in known:
            if _is_address(address) and ipaddress.ip_address(address) == ipaddress.ip_address(ip):
                if kind == "Wi-Fi":
                    text = f"{ip} of {label} is on Wi-Fi ({name}): this is slower than one machine alone."
                    remedy = "Connect the machines with a Thunderbolt cable, and write the addresses of that interface."
                    return _problem("interface", text, f"{remedy} `mlx.distributed_config` finds them.")
                return _ok("interface", f"{ip} of {label} is on {name}{f' ({kind})' if kind else ''}.")
        others = ", ".join(f"{address} ({kind or name})" for address, name, kind in known if kind != "loopback")
        text = f"{label} does not have the address {ip}: it has {others or 'none'}."
        return _problem("interface", text, "Write one of its addresses into the hostfile.")

    def _gather(self) -> Finding:
        limit = SECONDS["gather"]
        ended = run_on_all(self.hostfile, reach.worker(self.python, "gather"), limit + _SLACK, self.port)
        answer = answer_of(ended)
        if answer is None or "error" in answer:
            reason = answer["error"] if answer else _reason(ended, limit)
            reason = re.sub(r":? `mlx-oss hosts check` says \w+", "", reason)  # this is it
            reason = reason.replace("`mlx.launch --starting-port", "`mlx-oss hosts check --port")
            remedy = (
                "Is a firewall between the machines, or another program running that uses the ports from "
                f"{self.port} on? Can each of them `ping` the addresses of the others?"
            )
            return _problem("gather", f"The machines do not exchange numbers ({reason}).", remedy)
        latency, speed = answer["seconds"], answer["bytes_per_second"]
        text = f"A small gather takes {1e6 * latency:,.0f} microseconds, and a large one moves {speed / 1e9:.2g} GB/s."
        if latency > _SLOW:
            remedy = "The model will be slow: a Thunderbolt cable takes less than half a millisecond."
            return Finding("hosts", "gather", "note", text, remedy, answer)
        return Finding("hosts", "gather", "ok", text, "", answer)

    def _self_test(self) -> Finding:
        """Compares logits of all machines with those of the first one alone."""
        file, limit = f"/tmp/mlx-oss-{secrets.token_hex(16)}.npy", SECONDS["together"] + _SLACK
        ended = run_on_all(self.hostfile, reach.worker(self.python, "together", self.model, file), limit, self.port)
        answer = answer_of(ended)
        if answer is None or "error" in answer:
            reason = answer["error"] if answer else _reason(ended, SECONDS["together"])
            remedy = f"`mlx-oss plan {self.model} --hosts HOSTS.JSON` shows whether it fits into all of them."
            return _problem("self-test", f"The machines do not compute {self.model} together ({reason}).", remedy)
        ended = run_on(self.hostfile.hosts[0].name, reach.worker(self.python, "alone", self.model, file), limit)
        compared = answer_of(ended)
        if compared is None or "error" in compared:
            reason = compared["error"] if compared else _reason(ended, SECONDS["alone"])
            text = f"The machines compute {self.model} together; {self.hostfile.label(0)} does not alone ({reason})."
            return Finding("hosts", "self-test", "note", text, "Try again: the logits were not compared.")
        if "too small" in compared:
            text = f"The machines compute {self.model} together; it does not fit into one, so nothing was compared."
            level, remedy = (
                ("ok", "") if answer["finite"] else ("problem", "The logits are no numbers: check the files.")
            )
            return Finding("hosts", "self-test", level, text, remedy)  # type: ignore[arg-type]
        if compared["same"]:
            return _ok("self-test", f"The logits of {self.model} are bit for bit those of one machine.")
        text = f"The logits of {self.model} differ from those of one machine, by at most {compared['furthest']:.3g}."
        remedy = (
            "Answers can differ from those of one machine. If it is more than 0.5, check the files on all machines."
        )
        return Finding(
            "hosts", "self-test", "note" if compared["furthest"] < 0.5 else "problem", text, remedy, compared
        )


def _difference(first: dict[str, Any], other: dict[str, Any]) -> str:
    """What is not the same, in a few words; empty if all is."""
    for name in ("config.json", "conversion.json"):
        if first[name] != other[name]:
            return name
    names = sorted({*first["files"], *other["files"]})
    for name in names:
        own, others = (each["files"].get(name) for each in (first, other))
        if own is None or others is None:
            return f"only one has {name}"
        if own != others:
            return f"the {'size' if own[0] != others[0] else 'header'} of {name}"
    return "" if first["identity"] == other["identity"] else "its tensors"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _reason(ended: Ended, limit: float | None = None) -> str:
    """The last line that a program has written, or how it ended."""
    lines = [line.strip() for line in ended.err.splitlines() if line.strip() and "[WARN]" not in line]
    if errors := [line for line in lines if line.startswith("error: ")] or lines:
        return errors[-1].removeprefix("error: ").rstrip(".")[-300:]
    if ended.status is None and limit:
        return f"no answer within {limit:g} s"
    return f"exit status {ended.status}" if ended.status else "no answer"


def _failed(findings: list[Finding]) -> bool:
    return any(finding.level == "problem" for finding in findings)


def _ok(name: str, text: str) -> Finding:
    return Finding("hosts", name, "ok", text)


def _problem(name: str, text: str, remedy: str) -> Finding:
    return Finding("hosts", name, "problem", text, remedy)


def _note(text: str, remedy: str) -> Finding:
    return Finding("hosts", "interface", "note", text, remedy)


def _left_out(what: str, until: str) -> Finding:
    return Finding("hosts", "left out", "note", f"Left out until {until}: {what}.")
