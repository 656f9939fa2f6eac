"""Copies of models on the disk: several revisions, old conversions, damaged and missing files, folders of that name."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

import mlx_oss
from mlx_oss import models
from mlx_oss.cli import main
from mlx_oss.errors import CheckpointError, DownloadError
from mlx_oss.weights.hub import copies
from mlx_oss.weights.hub.names import HubModel
from tests.hub import COMMIT

NAME = "openai/gpt-oss-20b"
OTHER = "abcdef0123456789abcdef0123456789abcdef01"


@pytest.fixture
def folder_here(hub) -> Path:
    return models.folder_of(NAME)


@pytest.fixture
def two_revisions(folder_here) -> Path:
    """The cache's folder of a model of which another revision has one weight file of its own."""
    root = copies.cache_entry(NAME)
    other = root / "snapshots" / OTHER
    shutil.copytree(folder_here, other, symlinks=True)
    file = other / "model-00001-of-00002.safetensors"
    blob = root / "blobs" / ("e" * 64)
    shutil.copyfile(file, blob)
    file.unlink()
    file.symlink_to(os.path.relpath(blob, other))
    (root / "refs" / "v2").write_text(OTHER)
    return root


def test_of_a_damaged_download_the_command_is_named_that_repairs_it(hub, published, folder_here, capsys):
    os.truncate(folder_here / "model-00001-of-00002.safetensors", 1000)
    assert main(["chat", "Hi", "--model", NAME]) == 4
    error = capsys.readouterr().err
    command = f"mlx-oss verify {NAME} --repair"
    assert f"`{command}` downloads what is damaged" in error and len(error.splitlines()) == 1
    assert main(command.split()[1:]) == 0 and mlx_oss.plan(NAME)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("harm", ["damaged", "missing", "dangling"])
def test_a_small_file_is_repaired(hub, published, folder_here, file, harm, capsys):
    if harm == "damaged":
        (folder_here / file).resolve().write_bytes(b"{}")
    elif harm == "missing":
        (folder_here / file).unlink()
    else:
        (folder_here / file).resolve().unlink()
    assert main(["verify", NAME, "--repair"]) == 0
    assert (folder_here / file).read_bytes() == (published[NAME] / file).read_bytes()
    assert f"downloaded again: {file}" in capsys.readouterr().err or harm == "missing"


def test_repairing_what_is_intact_downloads_nothing(hub, folder_here, capsys):
    before = hub.sent
    assert main(["verify", NAME, "--repair"]) == 0
    assert "nothing is damaged or missing" in capsys.readouterr().err and hub.sent == before


def test_a_copy_in_another_layout_is_renewed_and_repaired_in_that_layout(hub):
    from huggingface_hub import snapshot_download

    where = Path(snapshot_download(NAME, endpoint=hub.url, cache_dir=copies.hub_cache(), allow_patterns="original/*"))
    hub.requests.clear()
    assert models.folder_of(NAME, newest=True) == where / "original"
    weights = next((where / "original").glob("*.safetensors"))
    weights.resolve().write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    assert models.repair(NAME) == [weights.name]
    assert not list(where.glob("*.safetensors"))


def test_each_revision_is_listed_and_found(two_revisions, capsys):
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["revision"] for row in rows] == [COMMIT, OTHER]
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert f"{NAME}@{COMMIT[:7]}" in out and f"{NAME}@{OTHER[:7]}" in out
    for name, commit in [(NAME, COMMIT), (f"{NAME}@v2", OTHER), (f"{NAME}@{OTHER[:7]}", OTHER)]:
        assert models.folder_of(name).name == commit


def test_removing_a_revision_leaves_the_others(two_revisions, published, capsys):
    assert main(["rm", f"{NAME}@v2"]) == 1 and "add --yes" in capsys.readouterr().err
    assert main(["rm", f"{NAME}@v2", "--yes"]) == 0
    freed = capsys.readouterr().out
    assert not (two_revisions / "blobs" / ("e" * 64)).exists() and "freed" in freed
    assert not (two_revisions / "refs" / "v2").exists()
    again = models.folder_of(NAME)
    assert (again / "config.json").read_bytes() == (published[NAME] / "config.json").read_bytes()
    assert all(path.is_file() for path in again.iterdir())
    assert main(["rm", f"{NAME}@{COMMIT[:8]}", "--yes"]) == 0 and not two_revisions.exists()


def test_a_reference_to_nowhere_hides_no_copy(hub, folder_here, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    reference = copies.cache_entry(NAME) / "refs" / "main"
    for harm in (lambda: reference.write_text("f" * 40), lambda: reference.write_bytes(b"\xff"), reference.unlink):
        harm()
        assert models.folder_of(NAME) == folder_here
    os.mkfifo(reference)
    assert models.folder_of(NAME) == folder_here


def test_an_older_conversion_does_not_stand_for_the_current_revision(hub, folder, tmp_path):
    name = "somebody/fine-tune"
    old = copies.converted_folder(HubModel(name, "0" * 40))
    shutil.copytree(folder("tiny"), old)
    assert models.folder_of(name) == old  # better than a download
    new = models.folder_of(name, newest=True)
    assert new != old and models.folder_of(name) == new and mlx_oss.plan(name)


def test_a_folder_of_that_name_comes_first_but_is_neither_pulled_nor_removed(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "20b").mkdir()
    (tmp_path / "nano").mkdir()
    assert models.folder_of("20b") == Path("20b") and models.folder_of(Path("nano")) == Path("nano")
    assert models.folder_of("nano").is_absolute()
    assert main(["pull", "20b"]) == 0 and str(copies.cache_entry(NAME)) in capsys.readouterr().out
    assert main(["rm", "20b", "--yes"]) == 0 and (tmp_path / "20b").exists()
    capsys.readouterr()
    for command in ("pull", "rm"):
        for name, expected in [("./20b", "is not the name of a model"), ("nano", "comes with mlx-oss")]:
            assert main([command, name]) == 2 and expected in capsys.readouterr().err


def test_a_copy_behind_a_link_is_used_and_not_removed(hub, folder_here, tmp_path):
    root = copies.cache_entry(NAME)
    root.rename(tmp_path / "elsewhere")
    root.symlink_to(tmp_path / "elsewhere")
    assert models.folder_of(NAME).resolve() == tmp_path / "elsewhere" / "snapshots" / COMMIT
    with pytest.raises(CheckpointError, match=r"is a link to .*elsewhere: remove both yourself"):
        models.remove(copies.find(HubModel(NAME)))


def test_what_is_no_gpt_oss_is_refused_before_its_weights(hub, published, tmp_path, capsys):
    other = tmp_path / "llama"
    shutil.copytree(published[NAME], other)
    (other / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    hub.repositories["somebody/llama"] = other
    for command in (["pull", "somebody/llama"], ["convert", "somebody/llama", str(tmp_path / "out")]):
        assert main(command) == 4
        err = capsys.readouterr().err
        assert "llama" in err and len(err.splitlines()) == 1
    assert not [path for path in (tmp_path / "hub").rglob("*") if len(path.name) >= 64]


def test_an_error_of_the_progress_callback_is_passed_on(hub):
    for error in (ConnectionError("mine"), PermissionError(13, "mine"), ZeroDivisionError("mine")):

        def fail(_, error=error):
            raise error

        with pytest.raises(type(error), match="mine") as caught:
            models.folder_of(NAME, progress=fail)
        assert not isinstance(caught.value, DownloadError)


def test_offline_says_so(hub, folder_here):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "mlx_oss", "pull", NAME],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "because HF_HUB_OFFLINE is set: unset it" in done.stderr


def test_what_is_in_the_way_in_the_cache_is_replaced_or_one_sentence(hub, published, tmp_path, capsys):
    from tests.hub import sha256

    weights = "model-00001-of-00002.safetensors"
    blob = copies.cache_entry(NAME) / "blobs" / sha256(published[NAME] / weights)
    part = blob.with_name(f"{blob.name}.incomplete")
    (tmp_path / "mine").write_text("mine")
    for put in (lambda: os.mkfifo(part), lambda: part.symlink_to(tmp_path / "mine"), lambda: os.mkfifo(blob)):
        shutil.rmtree(copies.cache_entry(NAME), ignore_errors=True)
        part.parent.mkdir(parents=True)
        put()
        folder = models.folder_of(NAME)
        assert (folder / weights).read_bytes() == (published[NAME] / weights).read_bytes()
    assert (tmp_path / "mine").read_text() == "mine"
    shutil.rmtree(copies.cache_entry(NAME))
    blob.mkdir(parents=True)
    assert main(["pull", NAME]) == 2
    assert "check what is there" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("cache", ["/dev/null", "a" * 300, "/proc/nothing"])
@pytest.mark.parametrize("command", [["models"], ["pull", NAME], ["rm", NAME], ["verify", NAME, "--repair"]])
def test_a_cache_that_cannot_be_is_one_sentence(hub, monkeypatch, cache, command, capsys):
    monkeypatch.setenv("HF_HUB_CACHE", cache)
    assert main(command) == (0 if command == ["models"] else 2)
    captured = capsys.readouterr()
    assert len((captured.err + captured.out).splitlines()) == 1


def test_a_whole_model_in_a_cache_that_cannot_be_written_to_is_renewed(hub, folder_here, monkeypatch):
    """Nothing of it changes, so nothing is written: neither locks nor links nor references."""
    before = {path: path.lstat().st_mtime_ns for path in copies.hub_cache().rglob("*")}
    shutil.rmtree(copies.hub_cache() / ".locks")
    models.folder_of(NAME, newest=True)
    after = {path: path.lstat().st_mtime_ns for path in copies.hub_cache().rglob("*")}
    assert after == {path: time for path, time in before.items() if ".locks" not in path.parts}


@pytest.mark.parametrize("revision", ["refs/pr/1", "feature/x-1", "v2.0", COMMIT[:7]])
def test_every_kind_of_revision_is_found_again_without_network(hub, revision, monkeypatch):
    hub.revisions |= {revision}
    folder = models.folder_of(f"{NAME}@{revision}")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert models.folder_of(f"{NAME}@{revision}") == folder


def test_a_cache_may_be_named_by_the_home_folder_and_variables(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("PLACE", "models")
    monkeypatch.setenv("HF_HUB_CACHE", "~/$PLACE/hub")
    assert models.folder_of(NAME).is_relative_to(tmp_path / "home" / "models" / "hub")
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", "~/${PLACE}2")
    assert models.folder_of(NAME).is_relative_to(tmp_path / "home" / "models2" / "hub")


@pytest.fixture
def no_links(monkeypatch) -> None:
    """A disk on which no symbolic link can be made, such as one with exFAT under Linux."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refused)


def plain_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def test_without_symbolic_links_the_files_themselves_lie_in_the_snapshot(hub, published, no_links, tmp_path, capsys):
    assert main(["pull", NAME]) == 0
    folder = copies.cache_entry(NAME) / "snapshots" / COMMIT
    names = [path.name for path in published[NAME].iterdir() if path.is_file() and path.suffix != ".md"]
    assert plain_files(folder) == sorted(names)
    assert all((folder / name).read_bytes() == (published[NAME] / name).read_bytes() for name in names)
    assert not list((copies.cache_entry(NAME) / "blobs").iterdir())  # so nothing takes its space twice
    sent = hub.sent
    assert main(["pull", NAME]) == 0 and hub.sent == sent
    assert models.folder_of(NAME) == folder
    mlx_oss.load_model(folder)
    assert main(["verify", NAME]) == 0
    assert main(["rm", NAME, "--yes"]) == 0 and not copies.cache_entry(NAME).exists()


def test_without_symbolic_links_a_model_is_converted_and_shared_with_huggingface_hub(hub, no_links):
    from huggingface_hub import hf_hub_download

    assert models.folder_of("somebody/fine-tune").is_dir()
    folder, sent = models.folder_of(NAME), hub.sent
    there = hf_hub_download(NAME, "model-00001-of-00002.safetensors", endpoint=hub.url, cache_dir=copies.hub_cache())
    assert Path(there).parent == folder and hub.sent == sent


def test_without_symbolic_links_an_interrupted_download_goes_on(hub, published, no_links, monkeypatch):
    weights = "model-00001-of-00002.safetensors"
    hub.cut[weights] = 100_000
    with monkeypatch.context() as patch:
        patch.setattr("mlx_oss.weights.hub.download._PAUSE", 0.0)
        folder = models.folder_of(NAME)
    assert (folder / weights).read_bytes() == (published[NAME] / weights).read_bytes()
    (folder / weights).unlink()
    hub.cut.clear()
    before = hub.sent
    assert models.folder_of(NAME) == folder and hub.sent - before == (folder / weights).stat().st_size


@pytest.mark.parametrize("file", ["config.json", "model-00001-of-00002.safetensors"])
def test_without_symbolic_links_a_damaged_file_is_repaired_by_the_hubs_checksum(hub, published, no_links, file, capsys):
    folder = models.folder_of(NAME)
    data = bytearray((folder / file).read_bytes())
    data[-1] ^= 1
    (folder / file).write_bytes(data)
    assert main(["verify", NAME, "--repair"]) == 0
    assert f"downloaded again: {file}" in capsys.readouterr().err
    assert (folder / file).read_bytes() == (published[NAME] / file).read_bytes()


def test_two_processes_without_symbolic_links_download_each_file_once(hub, published, tmp_path):
    import subprocess
    import sys

    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(
        "import os\ndef refused(*_, **__):\n    raise OSError(95, 'Operation not supported')\nos.symlink = refused\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(patch), *sys.path])}
    hub.pace = 0.01
    command = [sys.executable, "-m", "mlx_oss", "pull", NAME]
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    folder = copies.cache_entry(NAME) / "snapshots" / COMMIT
    weights = [path.name for path in published[NAME].glob("*.safetensors")]
    assert all((folder / name).read_bytes() == (published[NAME] / name).read_bytes() for name in weights)
    assert all(hub.requests[f"GET /{NAME}/resolve/{COMMIT}/{name}"] == 3 for name in weights)


def test_a_link_that_fails_for_another_reason_is_one_sentence(hub, monkeypatch, capsys):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "symlink", full)
    assert main(["pull", NAME]) == 2
    assert "is full: free some space" in capsys.readouterr().err.splitlines()[-1]


def test_a_model_that_was_only_looked_into_is_told_from_one_whose_download_has_begun(hub, published, capsys):
    assert main(["plan", NAME]) == 0
    models.folder_of("somebody/fine-tune", as_released=True)
    (copies.find(HubModel("somebody/fine-tune")).folder / "model.safetensors").resolve().unlink()
    blob = copies.cache_entry("somebody/fine-tune") / "blobs" / f"{'0' * 64}.incomplete"
    blob.write_bytes(b"begun")
    capsys.readouterr()
    assert main(["models", "--json"]) == 0
    states = {row["name"]: (row["here"], row["whole"]) for row in json.loads(capsys.readouterr().out)}
    assert states == {
        NAME: ("not downloaded, only looked into", False),
        "somebody/fine-tune": ("incomplete: `mlx-oss pull somebody/fine-tune` completes it", False),
    }
    assert main(["verify", NAME, "--repair"]) == 2
    assert f"is not on this disk: download it with `mlx-oss pull {NAME}`" in capsys.readouterr().err
    assert not list((copies.cache_entry(NAME) / "blobs").glob("?" * 64))


def test_in_a_pipe_the_list_has_a_line_for_each_model(hub, folder_here, capsys):
    assert main(["models"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.startswith("model ") and NAME in line and line.rstrip().endswith("everything in memory")


@pytest.mark.parametrize("start", ["https://huggingface.co/", "huggingface.co/", "hf.co/", "https://www.hf.co/"])
def test_the_address_of_a_models_page_is_its_name(hub, start):
    assert models.hub_model(f"{start}{NAME}") == models.hub_model(NAME) == HubModel(NAME)
    assert models.hub_model("somebody/hf.co/x") is None


def test_the_doctor_knows_a_model_by_its_name_whether_it_is_here_or_not(hub, tmp_path, capsys):
    assert main(["doctor", NAME, "--quick", "--all"]) in (0, 1)
    said = capsys.readouterr().out
    assert f"ok, model: {NAME} fits in memory" in said and f"{NAME} is not on this disk, so" in said
    assert not list((tmp_path / "hub").rglob("?" * 64))
    models.folder_of(NAME)
    assert main(["doctor", "20b", "--quick", "--all"]) in (0, 1)
    assert f"ok, model: {NAME} fits in memory" in capsys.readouterr().out
    assert main(["doctor", "21b"]) == 2 and "is not the name of a model" in capsys.readouterr().err
