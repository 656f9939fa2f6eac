"""Files that are no files, have no end, or are not what they say: each is refused with a sentence, at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mlx_oss
from mlx_oss import ChatSession, ScriptedEngine, files
from mlx_oss.chat import session_file
from mlx_oss.convert import convert, manifest, verify
from mlx_oss.convert.report import Progress
from mlx_oss.errors import CheckpointError, ConfigError, ConversionError, MlxOssError, SessionError
from mlx_oss.files import UnsuitableFile, expanded, open_descriptor, open_regular, read_bytes, read_input
from mlx_oss.folders import cache_folder
from mlx_oss.generation.engine import SavedTensor
from mlx_oss.harmony import ToolDescription
from mlx_oss.nano import nano_folder
from mlx_oss.tokenizer_json import check_tokenizer_json
from mlx_oss.tools import BrowserTool, patch_tool
from mlx_oss.tools.patch import apply_patch
from mlx_oss.weights import safetensors
from mlx_oss.weights.layouts import metal
from mlx_oss.weights.safetensors import INDEX, read_header
from tests.chat.scripted import DATE, TOKENIZER

MEMORY = 6 << 30  # bytes of address space that a command may use; MLX alone reserves more than half of it


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.mkdir()


def as_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def as_loop(path: Path) -> None:
    path.symlink_to(path.name)


def as_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 << 30)


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        before = os.getcwd()
        os.chdir(path.parent)  # the names of sockets are short
        try:
            listening.bind(path.name)
        finally:
            os.chdir(before)


def as_deep_json(path: Path) -> None:
    path.write_text("[" * 500_000)


def as_many_lists(path: Path) -> None:
    path.write_text("[" + "[]," * 9_000_000 + "[]]")


KINDS = [as_pipe, as_folder, as_device, as_loop, as_sparse, as_socket, as_deep_json, as_many_lists]


@pytest.fixture
def model(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder("tiny"), tmp_path / "model"))


def command(*arguments: object, **more: object) -> tuple[int, str]:
    """Runs the command with bounded memory and time. Returns its exit status and stderr."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    done = subprocess.run(
        [sys.executable, "-m", "mlx_oss", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=bound if sys.platform == "linux" else None,
        **more,  # type: ignore[call-overload]
    )
    return done.returncode, done.stderr


def refused(*arguments: object) -> str:
    status, err = command(*arguments)
    assert status == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and len(lines[0]) < 2500 and "Traceback" not in err, err
    return lines[0]


def replaced(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink(missing_ok=True)
    make(path)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", ["config.json", INDEX, "model-00001-of-00001.safetensors", "conversion.json"])
def test_a_part_of_a_model_that_is_something_else_is_refused(model, name, make):
    name = next((path.name for path in model.glob(name.replace("model-00001-of-00001", "*"))), name)
    replaced(model / name, make)
    for check in (lambda: mlx_oss.plan(model), lambda: verify(model), lambda: convert(model, model.parent / "out")):
        if name == "conversion.json" and check.__code__.co_names[-1] != "verify":
            continue  # only verifying reads it
        with pytest.raises(MlxOssError) as caught:
            check()
        assert name.split("-")[0].split(".")[0] in str(caught.value) and len(str(caught.value)) < 2100


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("arguments", [["render"], ["parse"], ["chat", "hi", "--response-format"]])
def test_a_text_that_is_something_else_is_refused(tmp_path, make, arguments):
    make(tmp_path / "text")
    assert "text " in refused(*arguments, tmp_path / "text")


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("text_only", [False, True])
def test_a_session_that_is_something_else_is_refused(tmp_path, script, make, text_only):
    make(tmp_path / "chat")
    with pytest.raises(SessionError):
        ChatSession.load(tmp_path / "chat", script, TOKENIZER, text_only=text_only)


@pytest.mark.parametrize("make", [as_pipe, as_folder, as_device, as_sparse])
@pytest.mark.parametrize("name", ["tokenizer.json", "LICENSE", "chat_template.jinja"])
def test_a_companion_that_is_something_else_is_refused_or_left_out(release, tmp_path, name, make):
    source = Path(shutil.copytree(release("tiny"), tmp_path / "source"))
    replaced(source / name, make)
    try:
        convert(source, tmp_path / "out")
    except MlxOssError as error:
        assert name in str(error) and not (tmp_path / "out").exists()
    else:
        assert not (tmp_path / "out" / name).exists()


@pytest.fixture
def script() -> ScriptedEngine:
    return ScriptedEngine()


def test_a_header_that_claims_three_gigabytes_is_not_read(tmp_path, script):
    path = tmp_path / "chat"
    with path.open("wb") as file:
        file.write((3 << 30).to_bytes(8, "little") + b'{"__metadata__":')
        file.truncate((3 << 30) + 100)
    with pytest.raises(CheckpointError, match="has a header of 3,221,225,472 bytes"):
        read_header(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for text_only in (False, True):
        with pytest.raises(SessionError, match="not a saved session"):
            ChatSession.load(path, script, TOKENIZER, text_only=text_only)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000


def test_a_header_with_a_million_empty_tensors_is_not_read(tmp_path):
    entry = '":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = ("{" + ",".join(f'"{number}{entry}' for number in range(1_400_000)) + "}").encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="has a header of"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_a_header_in_anything_but_utf8_is_refused(tmp_path, encoding):
    header = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.encode(encoding)
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match="damaged safetensors header"):
        read_header(tmp_path / "x.safetensors")


def test_an_error_line_is_short_whatever_it_quotes(model):
    config = json.loads((model / "config.json").read_text())
    for key, value in [("model_type", "x" * 287_000), ("layer_types", ["y" * 100] * 2000), ("z" * 287_000, 1)]:
        (model / "config.json").write_text(json.dumps(config | {key: value}))
        status, err = command("plan", model)
        assert len(err) < 3000 and status == (0 if value == 1 else 4)


def test_a_pipe_that_was_handed_over_is_read(tmp_path):
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m mlx_oss parse --text <(echo '<|channel|>final<|message|>Hi<|return|>')"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Hi" in done.stdout, done.stderr


def test_a_question_without_end_is_refused():
    with open("/dev/zero", "rb") as endless:
        done = subprocess.run(
            [sys.executable, "-m", "mlx_oss", "chat"], stdin=endless, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 2 and "it has more than 16,777,216 bytes" in done.stderr


def test_what_is_opened_is_looked_at_again(tmp_path, monkeypatch):
    """The file that was looked at may have been replaced before it is opened."""
    (tmp_path / "file").write_bytes(b"good")
    os.mkfifo(tmp_path / "pipe")
    status, real = os.stat(tmp_path / "file"), os.stat
    monkeypatch.setattr(
        files.os, "stat", lambda path, **more: status if path == tmp_path / "pipe" else real(path, **more)
    )
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(UnsuitableFile, match="a named pipe"):
        open_descriptor(tmp_path / "pipe")
    assert len(os.listdir("/dev/fd")) == before


def test_exactly_the_limit_can_be_read(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 5)
    assert read_bytes(tmp_path / "file", 5) == b"xxxxx" == read_input(tmp_path / "file", 5)
    with pytest.raises(UnsuitableFile, match="more than 4 bytes"):
        read_bytes(tmp_path / "file", 4)


@pytest.mark.skipif(not os.path.exists("/proc/kmsg"), reason="a file of Linux")
@pytest.mark.parametrize("name", ["config.json", INDEX, "conversion.json", "model.safetensors"])
def test_a_file_of_proc_that_calls_itself_regular_is_not_waited_for(model, name):
    """Without a byte to read, /proc/kmsg answers that one should wait. It may also be unreadable, or have bytes."""
    if name == "model.safetensors":
        name = next(path.name for path in model.glob("*.safetensors"))
    (model / name).unlink()
    (model / name).symlink_to("/proc/kmsg")
    with pytest.raises(MlxOssError):
        verify(model)


def test_a_regular_file_that_has_no_bytes_yet_raises_an_error(tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    monkeypatch.setattr(files, "open_descriptor", lambda path: os.dup(reading))
    for read in (lambda file: file.read(8), lambda file: read_bytes(tmp_path, 8)):
        with open_regular(tmp_path) as file, pytest.raises(BlockingIOError):
            read(file)
    os.close(reading)
    os.close(writing)


NO_PATHS = ["a\0b", "~\0", "\ud800"]


@pytest.mark.parametrize("path", NO_PATHS)
def test_what_no_file_can_be_called_is_refused_with_a_sentence(tmp_path, model, conversation, script, path):
    patch = "*** Begin Patch\n*** Add File: n\n+x\n*** End Patch"
    for act in (
        lambda: mlx_oss.plan(path),
        lambda: mlx_oss.load(path),
        lambda: mlx_oss.ModelConfig.from_file(path),
        lambda: verify(path),
        lambda: verify(model, path),
        lambda: convert(path, tmp_path / "out"),
        lambda: convert(model, path),
        lambda: conversation.save(path),
        lambda: ChatSession.load(path, script, TOKENIZER),
        lambda: BrowserTool(path),
        lambda: patch_tool(path),
        lambda: apply_patch(patch, path),
        lambda: check_tokenizer_json(path),
    ):
        with pytest.raises(MlxOssError):
            act()


MANIFESTS: list[object] = [None, True, -1, 0.5, "x", [], [[]], {"x": 1}, {"x": None}, {"x": {}}, {"\ud800": ""}]
MANIFESTS += [{name: "0" * 64} for name in ("../../etc/passwd", "/etc/passwd", "a\0", "..", ".", "", "a/b")]


@pytest.mark.parametrize("part", ["headers", "files", "crc32"])
def test_a_manifest_with_a_seal_but_impossible_contents_is_refused(model, part):
    written = json.loads((model / "conversion.json").read_text())
    del written["seal"]
    for value in MANIFESTS:
        (model / "conversion.json").write_bytes(manifest._sealed(written | {part: value}))
        with pytest.raises(CheckpointError, match="convert again"):
            verify(model)
    (model / "conversion.json").write_bytes(manifest._sealed({key: written[key] for key in written if key != part}))
    with pytest.raises(CheckpointError, match="convert again"):
        verify(model)


def test_a_manifest_does_not_name_files_outside_its_folder(model):
    """Whether a file has a certain content must not be found out."""
    (model.parent / "outside").write_text("secret")
    written = json.loads((model / "conversion.json").read_text())
    del written["seal"]
    for name in ("../outside", str(model.parent / "outside"), f"../{model.name}/config.json"):
        path = model / name
        files_ = {**written["files"], name: hashlib.sha256(path.read_bytes()).hexdigest()}
        (model / "conversion.json").write_bytes(manifest._sealed(written | {"files": files_}))
        with pytest.raises(CheckpointError, match="names files outside its folder"):
            verify(model)


def test_shards_that_have_too_many_tensors_together_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors, "_MOST_TENSORS", 10)
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    for number in range(3):
        header = json.dumps({f"{number}.{tensor}": entry for tensor in range(6)}).encode()
        (tmp_path / f"{number}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="more than 10 tensors"):
        safetensors.read_folder(tmp_path)
    monkeypatch.setattr(safetensors, "_MOST_TENSORS", 5)
    with pytest.raises(CheckpointError, match="more than 5 tensors"):
        read_header(tmp_path / "0.safetensors")


def test_a_metal_file_is_not_walked_through_without_end(release, tmp_path, monkeypatch):
    """A sparse file can claim as many experts as a header can name."""
    whole = bytearray((release("tiny", "metal") / metal.FILE).read_bytes())
    struct.pack_into("<I", whole, 40, 4_000_000)  # the number of experts
    path = tmp_path / metal.FILE
    path.write_bytes(whole)
    os.truncate(path, 1 << 40)
    monkeypatch.setattr(metal, "_MOST_TENSORS", 1000)
    with pytest.raises(CheckpointError, match="download it again"):
        metal.read_metal(tmp_path)


def test_stdin_that_cannot_be_read_is_a_sentence(tmp_path):
    for arguments in (["chat"], ["chat", "--json"], ["parse", "-"], ["render", "-"]):
        with (tmp_path / "out").open("wb") as writing:
            command_ = [sys.executable, "-m", "mlx_oss", *arguments]
            done = subprocess.run(command_, stdin=writing, capture_output=True, text=True)
        said = done.stdout if "--json" in arguments else done.stderr
        assert done.returncode == 2 and said.startswith(("error: ", '{"type": "error"')) and said.count("\n") == 1, done


# Sessions


@pytest.fixture
def conversation(script) -> ChatSession:
    return ChatSession(script, TOKENIZER, current_date=DATE)


DAMAGED = {
    "values within values": b'{"message": [0,' * 60_000,
    "texts that never end": (b'{"message": "' + b"a" * 30) * 60_000,
    "nothing but beginnings": b'{"message": ' * 100_000,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_recovering_what_a_damaged_file_holds_ends_soon(tmp_path, script, monkeypatch, kind):
    read = 0

    class Counting(json.JSONDecoder):
        def raw_decode(self, text: str, start: int = 0) -> tuple[object, int]:
            nonlocal read
            try:
                return super().raw_decode(text, start)
            except json.JSONDecodeError as error:
                read += error.pos - start
                raise
            finally:
                read += 1000

    monkeypatch.setattr(session_file.json, "JSONDecoder", Counting)
    (tmp_path / "chat").write_bytes(bytes(8) + DAMAGED[kind])
    with pytest.raises(SessionError, match="no message in it can be read"):
        ChatSession.load(tmp_path / "chat", script, TOKENIZER, text_only=True)
    assert read < 10 * (len(DAMAGED[kind]) + 1_000_000)


def test_what_is_recovered_of_a_damaged_file_is_what_was_said(tmp_path):
    said = 'A \u2028 "quoted" \\ \n \N{GRINNING FACE} \xe9'
    session = ChatSession(ScriptedEngine(said), TOKENIZER, current_date=DATE)
    session.ask(said)
    session.save(tmp_path / "chat")
    whole = (tmp_path / "chat").read_bytes()
    (tmp_path / "chat").write_bytes(whole.replace(b'"seal": "', b'"seal": "x', 1))
    loaded = ChatSession.load(tmp_path / "chat", ScriptedEngine(), TOKENIZER, text_only=True)
    assert [message.content for message in loaded.messages] == [said, said]


@pytest.mark.long
@pytest.mark.parametrize(
    "piece", [b"\\n", b'{"message": {"role":"user","content":"a"}}', b'{"message": [' + b"0," * 15000]
)
def test_the_largest_damaged_file_is_read_without_filling_the_memory(tmp_path, script, piece):
    (tmp_path / "chat").write_bytes(bytes(8) + piece * (files.SESSION_BYTES // len(piece)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(SessionError):
        ChatSession.load(tmp_path / "chat", script, TOKENIZER, text_only=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000


def test_a_shape_that_would_take_minutes_to_multiply_is_refused(tmp_path):
    shapes = ",".join(["9" * 4000] * 1900)
    header = f'{{"a":{{"dtype":"F32","shape":[{shapes}],"data_offsets":[0,0]}}}}'.encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="tensor a has a damaged header entry"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("path", ["/dev/full", "/dev/null"])
def test_a_conversation_is_not_saved_over_a_device(conversation, path):
    before = os.stat(path)
    with pytest.raises(SessionError, match="it is a device, not a file"):
        conversation.save(path)
    assert os.stat(path).st_ino == before.st_ino and stat.S_ISCHR(os.stat(path).st_mode)


@pytest.mark.parametrize("make", [as_pipe, as_folder, as_device, as_loop, as_socket])
def test_a_conversation_is_not_saved_over_what_is_no_file(conversation, tmp_path, make):
    make(tmp_path / "chat")
    before = os.lstat(tmp_path / "chat")
    with pytest.raises(SessionError, match="cannot be written"):
        conversation.save(tmp_path / "chat")
    assert os.lstat(tmp_path / "chat") == before and os.listdir(tmp_path) == ["chat"]


def test_only_the_user_may_read_a_saved_conversation(conversation, tmp_path):
    (tmp_path / "chat").write_text("")
    (tmp_path / "chat").chmod(0o644)
    before = os.umask(0)
    try:
        conversation.save(tmp_path / "chat")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "chat").st_mode) == 0o600


def test_a_conversation_is_saved_under_the_longest_name(conversation, tmp_path, script):
    for name in ("a" * 255, "\N{GRINNING FACE}" * 63):
        conversation.save(tmp_path / name)
        ChatSession.load(tmp_path / name, script, TOKENIZER)


@pytest.mark.parametrize("place", ["response_format", "tool"])
def test_half_a_character_in_a_saved_conversation_is_refused_when_it_is_loaded(tmp_path, script, place):
    tool = ToolDescription("name", "does something")
    session = ChatSession(script, TOKENIZER, tools=[tool], response_format="halves?", current_date=DATE)
    session.save(tmp_path / "chat")
    whole = (tmp_path / "chat").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    text = header["__metadata__"]["text"]
    changed = text.replace(
        *{"response_format": ("halves?", r"\ud800"), "tool": ('"name": "name"', r'"name": "\ud800"')}[place]
    )
    assert changed != text
    header["__metadata__"] |= {"text": changed, "seal": hashlib.sha256(changed.encode()).hexdigest()}
    written = json.dumps(header).encode()
    (tmp_path / "chat").write_bytes(len(written).to_bytes(8, "little") + written + whole[8 + length :])
    with pytest.raises(MlxOssError):
        ChatSession.load(tmp_path / "chat", script, TOKENIZER)


def test_two_processes_can_save_to_one_path(conversation, tmp_path, script):
    """The second one begins and ends while the first one writes."""
    calls: list[str] = []

    def tensors() -> Iterator[tuple[str, SavedTensor]]:
        calls.append("read")
        if len(calls) == 2:
            conversation.save(tmp_path / "chat")
        return iter(())

    session_file.write(tmp_path / "chat", conversation._to_saved(()), tensors)
    assert len(calls) == 2 and os.listdir(tmp_path) == ["chat"]
    ChatSession.load(tmp_path / "chat", script, TOKENIZER)


def test_what_a_killed_process_has_left_is_removed_by_the_next_save(conversation, tmp_path):
    left = tmp_path / f".chat.{'0' * 16}.unfinished.safetensors"
    for path in (left, tmp_path / ".chat.other.unfinished.safetensors", tmp_path / ".chat2.0.unfinished.safetensors"):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - 3600, time.time() - 3600))
    fresh = tmp_path / f".chat.{'1' * 16}.unfinished.safetensors"
    fresh.write_bytes(b"half")
    conversation.save(tmp_path / "chat")
    assert not left.exists() and fresh.exists() and len(os.listdir(tmp_path)) == 4


# Paths


def test_a_tilde_is_the_home_folder_wherever_a_path_is_taken(monkeypatch, tmp_path, model, conversation, script):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    shutil.move(model, home / "model")
    (home / "page.md").write_text("# Title")
    conversation.save("~/chat")
    assert ChatSession.load("~/chat", script, TOKENIZER).messages == conversation.messages
    convert("~/model", "~/out")
    verify("~/out", "~/model")
    assert mlx_oss.plan("~/model").folder == home / "model"
    assert mlx_oss.ModelConfig.from_file("~/model/config.json").num_hidden_layers
    BrowserTool("~")
    patch_tool("~")
    monkeypatch.setenv("MLX_OSS_CACHE", "~/cache")
    assert cache_folder() == home / "cache"
    assert expanded("~nobody-at-all/x") == Path("~nobody-at-all/x")
    assert sorted(os.listdir(tmp_path)) == ["home"]


def test_a_link_that_loops_gets_a_sentence(tmp_path, script):
    as_loop(tmp_path / "loop")
    attempts: list[Callable[[], object]] = [
        lambda: mlx_oss.plan(tmp_path / "loop"),
        lambda: convert(tmp_path / "loop", tmp_path / "out"),
        lambda: convert(tmp_path / "loop" / "x", tmp_path / "out"),
        lambda: verify(tmp_path / "loop"),
        lambda: BrowserTool(tmp_path / "loop"),
        lambda: patch_tool(tmp_path / "loop"),
        lambda: ChatSession.load(tmp_path / "loop", script, TOKENIZER),
        lambda: mlx_oss.ModelConfig.from_file(tmp_path / "loop"),
    ]
    for attempt in attempts:
        with pytest.raises(MlxOssError, match=r"loop.*: "):
            attempt()


# Conversion


def changes(source: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    weights = sorted(source.glob("*.safetensors"))[0]
    config = source / "config.json"
    yield weights.name, lambda: weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    yield weights.name, lambda: (shutil.copy2(weights, source / "copy"), os.replace(source / "copy", weights))
    yield config.name, lambda: config.write_text(config.read_text() + " ")
    yield config.name, lambda: config.unlink()


@pytest.mark.parametrize("number", range(4))
def test_a_source_that_changes_while_it_is_converted_is_noticed(release, tmp_path, number):
    source = Path(shutil.copytree(release("tiny"), tmp_path / "source"))
    name, change = list(changes(source))[number]
    done = False

    def progress(now: Progress) -> None:
        nonlocal done
        if not done:
            done = True
            change()

    # A thread that reads a file just when it is written anew finds it shorter than it was.
    noticed = f"{name} (was changed while it was converted|shrank while tensor .* was read)"
    with pytest.raises((CheckpointError, ConfigError), match=noticed):
        convert(source, tmp_path / "out", progress=progress)
    assert done and sorted(os.listdir(tmp_path)) == ["source"]


# nano


def damages(nano: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    weights = sorted(nano.glob("*.safetensors"))[0]

    def flip() -> None:
        with weights.open("r+b") as file:
            file.seek(-1000, os.SEEK_END)
            byte = file.read(1)
            file.seek(-1000, os.SEEK_END)
            file.write(bytes([byte[0] ^ 1]))

    yield "a bit", flip
    yield "cut short", lambda: os.truncate(weights, 1000)
    yield "no config", (nano / "config.json").unlink
    yield "no manifest", (nano / "conversion.json").unlink
    yield "a file", lambda: (shutil.rmtree(nano), nano.write_text("a file"))
    yield "a pipe", lambda: replaced(nano / "config.json", as_pipe)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder with nano, whose files are copies of those of the user's cache."""
    source = nano_folder()
    shutil.copytree(source, tmp_path / "cache" / source.name)
    monkeypatch.setenv("MLX_OSS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("number", range(6))
def test_nano_heals_itself(cache, number):
    (nano,) = cache.iterdir()
    _, damage = list(damages(nano))[number]
    damage()
    assert nano_folder() == nano
    verify(nano)
    assert list(cache.iterdir()) == [nano]


def test_what_a_killed_process_has_left_of_nano_is_removed(cache):
    for name in (".nano-old", ".nano-new", "other"):
        (cache / name / "mlx").mkdir(parents=True)
        if name != ".nano-new":
            os.utime(cache / name, (time.time() - 3600, time.time() - 3600))
    nano = nano_folder()
    assert {path.name for path in cache.iterdir()} == {nano.name, ".nano-new", "other"}


def test_a_cache_that_cannot_be_made_is_a_sentence(tmp_path, monkeypatch):
    as_loop(tmp_path / "loop")
    for place in (tmp_path / "loop", tmp_path / "loop" / "x", "/dev/null"):
        monkeypatch.setenv("MLX_OSS_CACHE", str(place))
        with pytest.raises(ConversionError, match="set MLX_OSS_CACHE to a folder"):
            nano_folder()
