"""Errors while weights are read: a clear message, a session that keeps its text, and nothing left behind."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import ChatSession, SamplingOptions, Transformer, load_model, load_tokenizer
from mlx_oss.errors import CheckpointError, DeviceError
from mlx_oss.generation.generate import generate_step
from mlx_oss.nano import nano_folder
from mlx_oss.offload import experts, reader
from mlx_oss.weights import files
from mlx_oss.weights.files import OpenFile
from tests.shapes import weights_file

GREEDY = SamplingOptions(temperature=0, logprobs=False)
PROMPT = list(range(20, 32))


@pytest.fixture
def nano(tmp_path) -> Path:
    """A copy of the nano model, which a test can damage."""
    return Path(shutil.copytree(nano_folder(), tmp_path / "nano"))


@pytest.fixture
def failing_disk(monkeypatch):
    """break_() makes every read fail; mend() makes reads work again."""
    read = files._pread

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    class Disk:
        def break_(self) -> None:
            monkeypatch.setattr(files, "_pread", fail)

        def mend(self) -> None:
            monkeypatch.setattr(files, "_pread", read)

    return Disk()


def broken_turn(session: ChatSession, damage) -> tuple[str, str]:
    """Calls `damage` during a turn, after its first text. Returns the text of the turn and the error message."""
    text = ""
    with pytest.raises(CheckpointError) as caught:
        for event in session.send("What can you do?"):
            text += getattr(event, "text", "")
            if len(text) > 20:
                damage()
    return text, str(caught.value)


def test_a_file_cut_short_in_the_middle_of_an_answer_is_named_and_the_session_goes_on(nano):
    model, tokenizer = load_model(nano, slots=4), load_tokenizer()
    session = ChatSession(model, tokenizer, options=GREEDY, max_tokens=60)
    file = weights_file(nano)
    content = file.read_bytes()
    text, message = broken_turn(session, lambda: os.truncate(file, 0))
    assert str(file) in message and "is cut short" in message and "load the model again" in message
    kept = "".join(str(m.content) for m in session.messages if m.role == "assistant")
    assert text and kept.startswith(text[:20]) and session.messages[0].content == "What can you do?"
    with pytest.raises(CheckpointError):  # it fails again, as long as the file is damaged
        session.ask("Hello!")
    session.undo()
    with file.open("r+b") as mended:
        mended.write(content)
    undisturbed = ChatSession(load_model(nano), tokenizer, options=GREEDY, max_tokens=60)
    again = session.edit(0, "What can you do?")
    assert [e for e in again if hasattr(e, "text")] == [
        e for e in undisturbed.send("What can you do?") if hasattr(e, "text")
    ]


def test_a_failed_read_is_reported_with_its_reason_and_the_next_turn_is_right(nano, failing_disk):
    model, tokenizer = load_model(nano, slots=4), load_tokenizer()
    session = ChatSession(model, tokenizer, options=GREEDY)
    _, message = broken_turn(session, failing_disk.break_)
    assert str(weights_file(nano)) in message and "Input/output error" in message
    failing_disk.mend()
    session.clear()
    assert session.ask("Hello!").text == ChatSession(load_model(nano), tokenizer, options=GREEDY).ask("Hello!").text


def test_a_file_that_is_removed_does_no_harm_while_the_model_is_there(nano):
    model, tokenizer = load_model(nano, slots=4), load_tokenizer()
    wanted = ChatSession(load_model(nano), tokenizer, options=GREEDY).ask("Hello!").text
    weights_file(nano).unlink()
    assert ChatSession(model, tokenizer, options=GREEDY).ask("Hello!").text == wanted
    with pytest.raises(CheckpointError, match="is missing"):
        load_model(nano, slots=4)


@pytest.mark.parametrize("after", [0, 1, 2, 5, 9, 30])
def test_a_cache_is_at_one_position_after_a_failed_read_and_can_continue_from_there(routed, after, failing_disk):
    folder = routed("32 experts")
    model, resident = load_model(folder, slots=4, dtype="float32"), load_model(folder, dtype="float32")
    cache, seen = model.make_cache(), list(PROMPT)
    try:
        for step in generate_step(model, PROMPT, GREEDY, cache=cache, max_tokens=60):
            seen.append(step.token)
            if len(seen) - len(PROMPT) > after:
                failing_disk.break_()
    except CheckpointError:
        pass
    assert {layer.offset for layer in cache.layers} == {cache.offset} and cache.offset <= len(seen)
    failing_disk.mend()
    rest = mx.array([[*seen[cache.offset :], 7]])
    wanted = resident(mx.array([[*seen, 7]]))[0, -1]
    assert mx.allclose(model(rest, cache)[0, -1], wanted, rtol=0, atol=1e-4)


def test_an_interruption_at_any_wait_leaves_a_model_that_is_right(routed, monkeypatch):
    folder = routed("32 experts")
    model, tokens = load_model(folder, slots=4), mx.array([PROMPT])
    wanted, waits, real = load_model(folder)(tokens), [0], reader.wait

    def interrupted(futures):
        waits[0] -= 1
        if waits[0] == 0:
            raise KeyboardInterrupt
        return real(futures)

    monkeypatch.setattr(reader, "wait", interrupted)
    for number in (1, 2, 3, 4, 7, 11, 20):
        waits[0] = number
        with pytest.raises(KeyboardInterrupt):
            model(tokens)
        assert mx.array_equal(model(tokens), wanted)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent.*No such file"):
        OpenFile(tmp_path / "absent")


def test_reads_that_come_in_pieces_are_put_together(routed, monkeypatch):
    real = files._pread
    monkeypatch.setattr(files, "_pread", lambda file, into, start: real(file, into[:1000], start))
    model, resident = load_model(routed("32 experts"), slots=4), load_model(routed("32 experts"))
    assert mx.array_equal(model(mx.array([PROMPT])), resident(mx.array([PROMPT])))


def test_without_preadv_the_bytes_are_the_same(routed, monkeypatch):
    monkeypatch.delattr(os, "preadv", raising=False)
    model, resident = load_model(routed("32 experts"), slots=4), load_model(routed("32 experts"))
    assert mx.array_equal(model(mx.array([PROMPT])), resident(mx.array([PROMPT])))


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("mlx-oss-read")]


def test_threads_and_files_end_with_the_model(routed):
    gc.collect()
    before = readers()
    model = load_model(routed("32 experts"), slots=4)
    model(mx.array([PROMPT]))
    threads = [thread for thread in readers() if thread not in before]
    descriptor = next(iter(model.transformer.layers[0].mlp.experts._sources)).origin._descriptor
    assert threads and os.fstat(descriptor)
    del model
    gc.collect()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    with pytest.raises(OSError):
        os.fstat(descriptor)


def remaining(model: Transformer) -> tuple[int, int, int]:
    """Numbers of threads, of open files (where the system lists them), and of objects."""
    files = Path("/proc/self/fd")
    model.transformer.layers[0].mlp.experts._reader.settle()
    gc.collect()
    return threading.active_count(), len(list(files.iterdir())) if files.exists() else 0, len(gc.get_objects())


def test_tokens_leave_nothing_behind(routed):
    """No threads, files or objects. For 10,000 tokens of nano: `python -m tests.bench_memory --leak`."""
    model = load_model(routed("32 experts"), slots=4)
    counts = []
    for part in range(3):
        for _ in generate_step(model, PROMPT, SamplingOptions(seed=part, logprobs=False), max_tokens=60):
            pass
        counts.append(remaining(model))
    assert counts[1][:2] == counts[2][:2] and abs(counts[2][2] - counts[1][2]) < 60


def test_several_threads_can_use_one_model(routed):
    """Each thread has its own streams; calls take turns."""
    folder = routed("32 experts")
    model, resident = load_model(folder, slots=4), load_model(folder)
    prompts = [np.random.default_rng(seed).integers(0, 300, (1, 12)) for seed in range(4)]
    wanted = [np.array(resident(mx.array(prompt)).astype(mx.float32)) for prompt in prompts]
    right = []

    def use(number: int) -> None:
        made = [np.array(model(mx.array(prompts[number])).astype(mx.float32)) for _ in range(6)]
        right.append(all(np.array_equal(logits, wanted[number]) for logits in made))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 4


INTERRUPTED = """
import sys, threading
import mlx_oss
from mlx_oss.generation.generate import generate_step
model = mlx_oss.load_model(sys.argv[1], slots=4)
before = set(threading.enumerate())
model(mlx_oss.loader.mx.array([[1, 2, 3]]))
try:
    while True:
        for step in generate_step(model, [1, 2, 3], max_tokens=50):
            print("token", flush=True)
except KeyboardInterrupt:
    others = [t for t in threading.enumerate() if not t.name.startswith("mlx-oss-read")]
    print("interrupted", len(others) - len(before), flush=True)
"""


@pytest.mark.parametrize("number", range(3))
def test_ctrl_c_ends_the_program(routed, number):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(routed("32 experts"))], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(1 + 7 * number):
        assert process.stdout.readline() == "token\n"
    process.send_signal(signal.SIGINT)
    *_, last = process.communicate(timeout=60)[0].splitlines()
    assert last == "interrupted 0" and process.returncode == 0


def test_a_read_that_an_interruption_left_behind_does_not_write_to_a_slot_later(routed, monkeypatch):
    """Ctrl-C just after a read was submitted, before the model waits for it, on a slow disk."""
    folder = routed("32 experts")
    model, tokens = load_model(folder, slots=4), mx.array([PROMPT])
    wanted = load_model(folder)(tokens)
    mx.eval(wanted)
    threads, read, calls = model.transformer.layers[0].mlp.experts._reader._threads, OpenFile.read, [0]
    submit = threads.submit

    def interrupted(*work):
        submit(*work)
        calls[0] += 1
        if calls[0] == 5:
            raise KeyboardInterrupt

    def slow(file, start, into):
        if calls[0] == 5:
            threading.Event().wait(0.05)
        read(file, start, into)

    monkeypatch.setattr(threads, "submit", interrupted)
    monkeypatch.setattr(OpenFile, "read", slow)
    with pytest.raises(KeyboardInterrupt):
        model(tokens)
    assert mx.array_equal(model(tokens), wanted)


def test_a_computation_that_failed_does_not_fail_every_later_one(routed, monkeypatch):
    folder = routed("32 experts")
    model, tokens = load_model(folder, slots=4), mx.array([PROMPT])
    wanted = load_model(folder)(tokens)
    mx.eval(wanted)
    real, countdown = mx.eval, [3]

    def failing(*arrays):
        is_output = sys._getframe(1).f_code.co_filename == experts.__file__  # not what a layer waits for
        countdown[0] -= is_output
        if is_output and countdown[0] in (0, -1):
            raise RuntimeError("[malloc] Unable to allocate")
        real(*arrays)

    monkeypatch.setattr(mx, "eval", failing)
    with pytest.raises(DeviceError):
        model(tokens)
    assert mx.array_equal(model(tokens), wanted)


def test_layers_keep_nothing_of_what_they_computed(routed):
    model = load_model(routed("32 experts"), slots=4)
    mx.eval(model(mx.array([PROMPT])))
    assert not any(layer.mlp.experts._computing for layer in model.transformer.layers)
