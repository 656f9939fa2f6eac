"""Every error about a folder says what helps, and that does help.

Each situation below is a folder that cannot be opened. The test does what the message says, as a user would, and opens
the result; a second message may follow the first. What only another program can do (download, train, merge with PEFT)
is replaced by its result. That no message is left out is checked in the source: each one that is raised there ends in a
remedy that is tried here, or in one of the few that need no trial.
"""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_oss
from mlx_oss.cli import main
from mlx_oss.convert import ConvertOptions, convert, verify
from mlx_oss.errors import MlxOssError
from mlx_oss.loader import load_model
from mlx_oss.weights.safetensors import INDEX
from tests.synthetic import write_checkpoint
from tests.weights.test_fine_tunes import as_layers, read, saved, with_dtypes

Remedy = Callable[[re.Match[str], Path, Path], Path]  # (what the message says, the folder, a new path) -> folder
EVEN = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "head_dim": 64}


def give_another(said: re.Match[str], folder: Path, new: Path) -> Path:
    return Path(said["path"])


def run_convert(said: re.Match[str], folder: Path, new: Path) -> Path:
    words = {"DST": str(new), "MODEL": str(new.with_name("base"))}  # a user knows which model the adapter is for
    if "MODEL" in said["command"]:
        write_checkpoint(new.with_name("base"))
    assert main([words.get(word, word) for word in shlex.split(said["command"])]) == 0
    return new


def run_convert_after_copying(said: re.Match[str], folder: Path, new: Path) -> Path:
    _, source, target = shlex.split(said["copy"])
    shutil.copy(source, target)
    return run_convert(said, folder, new)


def merged_by_peft(said: re.Match[str], folder: Path, new: Path) -> Path:
    return write_checkpoint(new, layout="bf16")


def saved_anew(said: re.Match[str], folder: Path, new: Path) -> Path:
    """What a download, or the program that made the model, would write."""
    return write_checkpoint(new)


def with_tensors(change: Callable[[re.Match[str], dict[str, mx.array]], object]) -> Remedy:
    def apply(said: re.Match[str], folder: Path, new: Path) -> Path:
        tensors = read(folder)
        change(said, tensors)
        return saved(new, folder / "config.json", tensors)

    return apply


def with_config(change: Callable[[re.Match[str], dict[str, object]], object]) -> Remedy:
    def apply(said: re.Match[str], folder: Path, new: Path) -> Path:
        config = json.loads((folder / "config.json").read_text())
        change(said, config)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return apply


def remove_file(said: re.Match[str], folder: Path, new: Path) -> Path:
    (folder / said["file"]).unlink()
    return folder


def remove_one_layout(said: re.Match[str], folder: Path, new: Path) -> Path:
    (folder / "model-mlx.safetensors").unlink()
    return folder


def remove_key(said: re.Match[str], config: dict[str, object]) -> None:
    *parents, last = said["key"].split(".")
    for parent in parents:
        config = config[parent]  # type: ignore[assignment]
    del config[last]


def copy_config(said: re.Match[str], folder: Path, new: Path) -> Path:
    shutil.copy(write_checkpoint(new) / "config.json", folder / "config.json")
    return folder


REMEDIES: dict[str, Remedy] = {
    r": give (its folder, )?(?P<path>/\S+)$": give_another,
    r"`mlx-oss (?P<command>convert .+ DST --adapter .+)`, after `(?P<copy>cp .+)`$": run_convert_after_copying,
    r"`mlx-oss (?P<command>convert .+ DST(?: --adapter .+)?)`": run_convert,
    r"with PEFT: merge_and_unload, then save_pretrained": merged_by_peft,
    r"tensor (?P<wanted>\S+) is missing, and (?P<there>\S+), which .* or rename the tensor$": with_tensors(
        lambda said, tensors: tensors.update({said["wanted"]: tensors.pop(said["there"])})
    ),
    r"tensor (?P<name>\S+) is not part of .*: save the model without it$": with_tensors(
        lambda said, tensors: tensors.pop(said["name"])
    ),
    r"tensors \S+ and (?P<name>\S+) are one .*: save the model without one of them$": with_tensors(
        lambda said, tensors: tensors.pop(said["name"])
    ),
    r" and in (?P<file>\S+): remove the file that does not belong$": remove_file,
    r": keep the files of one of them only$": remove_one_layout,
    r"config\.json: quantization\.(?P<key>\S+) disagrees .*: remove the entry$": with_config(
        lambda said, config: config["quantization"].pop(said["key"])  # type: ignore[attr-defined]
    ),
    r"unknown key (?P<key>\S+): it may change the computation: remove it if it does not$": with_config(remove_key),
    r"rope_scaling is missing: set it to null for plain RoPE": with_config(
        lambda said, config: config.update(rope_scaling=None)
    ),
    r": remove the wrong ones$": with_config(lambda said, config: config.pop("rope_parameters")),
    r": (?P<key>\w+) is .*, expected ": with_config(lambda said, config: config.update({said["key"]: 3})),
    r": download config\.json, or copy it from the model": copy_config,
    r"`git lfs pull` in its folder$": saved_anew,
    r"(download|convert|save)( or (convert|save))?( it| both| both files)? again": saved_anew,
    r"download, convert or save the model again$": saved_anew,
    r"(download or )?(convert|save) the model again$": saved_anew,
    r"although .* names it: download it$": saved_anew,
    r"save (it|the model) with (transformers' )?save_pretrained": saved_anew,
    r"save the model in bfloat16": saved_anew,
    r"use the model in Hugging Face's format": saved_anew,
    r"check its permissions, or download it again$": saved_anew,
    r"`mlx-oss pull (?P<name>\S+)`": saved_anew,
    r"give the folder (of a model|that holds config\.json and \*\.safetensors)": saved_anew,
    r"convert original/ instead$": saved_anew,
}


def hf(folder: Path) -> Path:
    return write_checkpoint(folder)


def dense(folder: Path) -> Path:
    return write_checkpoint(folder, layout="bf16")


def layers(folder: Path) -> Path:
    source = dense(folder.parent / "dense")
    return saved(folder, source / "config.json", as_layers(read(source), "both"))


def metal(folder: Path) -> Path:
    return write_checkpoint(folder, layout="metal")


def changed(rename: Callable[[str], str | None]) -> Callable[[Path], Path]:
    """A release with other names of tensors. None leaves one out."""

    def make(folder: Path) -> Path:
        source = hf(folder.parent / "source")
        tensors = {rename(name): array for name, array in read(source).items()}
        return saved(folder, source / "config.json", {name: each for name, each in tensors.items() if name})

    return make


def configured(**changes: object) -> Callable[[Path], Path]:
    """A release with another config. `...` removes a key."""

    def make(folder: Path) -> Path:
        config = json.loads((hf(folder) / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
        return folder

    return make


def entry_that_disagrees(folder: Path) -> Path:
    convert(hf(folder.parent / "source"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization"]["model.layers.1.mlp.experts.down_proj"] = {"group_size": 64, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def no_quantisation_of_mlx(folder: Path) -> Path:
    convert(hf(folder.parent / "source"), folder.parent / "mlx")
    tensors = read(folder.parent / "mlx")
    tensors["lm_head.scales"] = mx.zeros((300, 2), mx.uint8)
    return saved(folder, folder.parent / "mlx" / "config.json", tensors)


def with_extra(folder: Path) -> Path:
    tensors = read(hf(folder.parent / "source"))
    return saved(
        folder, folder.parent / "source" / "config.json", tensors | {"v_head.summary.weight": mx.zeros((1, 96))}
    )


def twice_named(folder: Path) -> Path:
    tensors = read(hf(folder.parent / "source"))
    tensors["_orig_mod.lm_head.weight"] = tensors["lm_head.weight"]
    return saved(folder, folder.parent / "source" / "config.json", tensors)


def sharded(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_checkpoint(folder, layout="hf_sharded")
        change(folder)
        return folder

    return make


def twice_there(folder: Path) -> None:
    (folder / INDEX).unlink()
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-copy.safetensors")


def two_layouts(folder: Path) -> Path:
    convert(hf(folder), folder.parent / "mlx")
    (folder / "model.safetensors").rename(folder / "model-hf.safetensors")
    experts = {name: array for name, array in read(folder.parent / "mlx").items() if ".experts." in name}
    mx.save_safetensors(str(folder / "model-mlx.safetensors"), experts)
    return folder


def below(name: str, make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def make_above(folder: Path) -> Path:
        (folder / name).parent.mkdir(parents=True)
        make(folder / name)
        return folder

    return make_above


def only(**files: str) -> Callable[[Path], Path]:
    """A folder with these files (`_` in a name stands for a point) and a config."""

    def make(folder: Path) -> Path:
        hf(folder)
        (folder / "model.safetensors").unlink()
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        return folder

    return make


def peft(folder: Path) -> Path:
    """As PEFT writes it, with a model that is not named."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 8}')
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    factors = {f"{name}A.weight": mx.ones((4, 96)), f"{name}B.weight": mx.zeros((240, 4))}
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), factors)
    return folder


def unmerged_peft(name: str) -> str:
    return f"base_model.model.{name}".replace("q_proj.weight", "q_proj.base_layer.weight")


def adapter_under_another_name(folder: Path) -> Path:
    folder.mkdir()
    names = [f"base_model.model.model.layers.0.self_attn.q_proj.lora_{letter}.weight" for letter in "AB"]
    mx.save_safetensors(str(folder / "lora.safetensors"), {name: mx.zeros((4, 4)) for name in names})
    return folder


def mlx_adapter(folder: Path) -> Path:
    """As `mlx_lm.lora` writes it."""
    pytest.importorskip("mlx_lm")
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model as mlx_lm_model

    outside = Path(tempfile.mkdtemp(dir=folder.parents[1]))
    base = outside / "the base"
    convert(hf(outside / "source"), base)
    lora = {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "self_attn.v_proj"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained, _ = mlx_lm_model(base)
    trained.freeze()
    linear_to_lora_layers(trained, 2, lora)
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), dict(tree_flatten(trained.trainable_parameters())))
    config = {"model": str(base), "fine_tune_type": "lora", "num_layers": 2, "lora_parameters": lora}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def mlx_states(folder: Path) -> Path:
    """As a training with mlx-lm that has not ended leaves it."""
    file = mlx_adapter(folder) / "adapters.safetensors"
    for steps in (100, 200):
        shutil.copy(file, folder / f"{steps:07}_adapters.safetensors")
    file.unlink()
    return folder


def damaged(change: Callable[[bytes], bytes], make: Callable[[Path], Path] = hf, file: str = "model.safetensors"):
    def make_damaged(folder: Path) -> Path:
        make(folder)
        (folder / file).write_bytes(change((folder / file).read_bytes()))
        return folder

    return make_damaged


def linked_to_nothing(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (hf(folder) / name).unlink()
        (folder / name).symlink_to("../blobs/absent")
        return folder

    return make


POINTER = "version https://git-lfs.github.com/spec/v1\n"
UNLIKE = {"rope_parameters": {"rope_type": "default", "rope_theta": 150000}}
SITUATIONS: dict[str, Callable[[Path], Path]] = {
    "dense experts": dense,
    "dense experts as layers": layers,
    "metal": metal,
    "an mlx-lm adapter": mlx_adapter,
    "a folder above an mlx-lm adapter": below("adapters", mlx_adapter),
    "a PEFT adapter": peft,
    "states of a training with mlx-lm": mlx_states,
    "a folder above a PEFT adapter": below("checkpoint-30", peft),
    "an adapter that is not merged": changed(unmerged_peft),
    "an adapter under another name": adapter_under_another_name,
    "a release above original/": below("original", lambda folder: write_checkpoint(folder, layout="original")),
    "a training's folder": below("checkpoint-500", dense),
    "a folder of the hub's cache": below("snapshots/0a1b", hf),
    "the hub's cache": below("models--openai--gpt-oss-20b/snapshots/0a1b", hf),
    "a file of a model": lambda folder: hf(folder) / "model.safetensors",
    "a renamed tensor": changed(lambda name: re.sub(r"1\.self_attn\.sinks", "1.self_attn.sink", name)),
    "two renamed tensors": changed(lambda name: name.replace("1.self_attn.o_proj", "1.self_attn.out_proj")),
    "a missing tensor": changed(lambda name: name if name != "model.norm.weight" else None),
    "no experts": changed(lambda name: name if ".experts." not in name else None),
    "other names of experts": changed(lambda name: name.replace(".experts.", ".moe.")),
    "an extra tensor": with_extra,
    "a tensor under two names": twice_named,
    "a tensor in two files": sharded(twice_there),
    "two layouts": two_layouts,
    "an entry that disagrees": entry_that_disagrees,
    "no quantisation of MLX's": no_quantisation_of_mlx,
    "an unknown rope key": configured(rope_scaling={"rope_type": "default", "mscale": 1.0}),
    "no rope": configured(rope_scaling=...),
    "two ropes": configured(**UNLIKE),
    "a wrong number": configured(num_experts_per_tok=0),
    "an incomplete config": configured(head_dim=...),
    "no config": lambda folder: ((hf(folder) / "config.json").unlink(), folder)[1],
    "a config that is no JSON": damaged(lambda data: data[:-9], file="config.json"),
    "a config that is a list": damaged(lambda data: b"[]", file="config.json"),
    "a foreign quantisation": configured(quantization_config={"quant_method": "bitsandbytes"}),
    "a missing shard": sharded(lambda folder: (folder / "model-00001-of-00002.safetensors").unlink()),
    "a damaged index": sharded(lambda folder: (folder / INDEX).write_text("{")),
    "an index of other files": sharded(lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": "../b"}}')),
    "a truncated file": damaged(lambda data: data[:-1]),
    "a longer file": damaged(lambda data: data + b"0"),
    "a damaged header": damaged(lambda data: data[:8] + b"[" + data[9:]),
    "no safetensors": damaged(lambda data: b"\xff" * 20),
    "a pointer": damaged(lambda data: POINTER.encode()),
    "a damaged Metal file": damaged(lambda data: data[:-1], metal, "model.bin"),
    "a Metal file of another kind": damaged(lambda data: b"x" + data[1:], metal, "model.bin"),
    "PyTorch's files": only(pytorch_model__bin=""),
    "GGUF": only(model__gguf=""),
    "an empty folder": only(),
    "a link to nowhere": linked_to_nothing("model.safetensors"),
    "a config that is a link to nowhere": linked_to_nothing("config.json"),
    "an unknown dtype": lambda folder: with_dtypes(hf(folder.parent / "source"), folder, {"sinks": "Q4_K"}),
    "no floats": lambda folder: with_dtypes(hf(folder.parent / "source"), folder, {"sinks": "I16"}),
    "nothing": lambda folder: folder,
    "a name on the hub": lambda folder: Path("openai/gpt-oss-20b"),
}


def message_of(open_it: Callable[[], object]) -> str:
    with pytest.raises(MlxOssError) as caught:
        open_it()
    return str(caught.value)


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_a_message_says_about_a_folder_helps(name, tmp_path, capsys):
    folder = SITUATIONS[name](tmp_path / "the folder".replace(" ", "_"))
    for step in range(4):
        try:
            load_model(folder, dtype="float32")
            break
        except MlxOssError as error:
            message = str(error)
        assert "\n" not in message
        tried = [(match, apply) for remedy, apply in REMEDIES.items() if (match := re.search(remedy, message))]
        assert tried, message
        match, apply = tried[0]
        folder = apply(match, folder, tmp_path / f"new{step}")
    else:
        pytest.fail(message)
    assert step, "the situation is none"


ADAPTERS = [
    "an mlx-lm adapter",
    "a PEFT adapter",
    "states of a training with mlx-lm",
    "a folder above an mlx-lm adapter",
]
ABOVE = ["a training's folder", "a folder of the hub's cache", "the hub's cache"]


@pytest.mark.parametrize("name", [*ADAPTERS, *ABOVE])
def test_an_adapter_or_a_folder_above_a_model_is_told_alike_everywhere(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("What?\n"))
    folder = SITUATIONS[name](tmp_path / "folder")
    message = message_of(lambda: mlx_oss.load(folder))
    assert ("LoRA adapter" in message) == (name in ADAPTERS)
    assert message == message_of(lambda: mlx_oss.plan(folder))
    assert message == message_of(lambda: convert(folder, tmp_path / "dst", ConvertOptions(dry_run=True)))
    assert message == message_of(lambda: verify(folder))
    capsys.readouterr()
    for command in (["chat", "--model", str(folder)], ["plan", str(folder)], ["verify", str(folder)]):
        assert main(command) == 2
        assert capsys.readouterr().err == f"error: {message}\n"


# Remedies that name a value to choose, or that tests of the converter try (tests/convert/test_bad_input.py).
UNTRIED = (
    r"expected (a|an|one of|its|ConvertOptions|x$|MODULE|\{wanted\}|\{expected\})",
    r"only .* (is|are) supported|this is another architecture",
    r"YaRN needs it|has group_size .* and bits .*, not",
    r"choose (another target|a target|a folder|one of|bf16|q8)|create it first|give the folder that it points to",
    r"convert again|free some space|wait for it to finish|move (it yourself|one of them)|give a name such as",
    r"verify it without --source|--source SRC|change its permissions|check the (disk|path)|load the model again",
    r"check that both belong to the same model|merge it with the program|convert the release with",
    r"compare with another form|cannot be put in place",  # the finished shards are kept
    r"use (an adapter|the adapter|the config that was saved|another state)|that trained it|save the adapter in one",
    r"give the folder with|give another path|give that too, --(adapter DIR|source SRC)|copy the one that is meant",
)


def messages() -> Iterator[str]:
    """What is raised about folders, as it stands in the source: {} for what is put in."""
    package = Path(mlx_oss.__file__).parent
    paths = [package / f"{name}.py" for name in ("config_checks", "quantization", "config")]
    paths += [*package.glob("weights/*.py"), *package.glob("weights/layouts/*.py"), *(package / "convert").glob("*.py")]
    constants: dict[str, str] = {}
    trees = [ast.parse(path.read_text()) for path in paths]
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and re.fullmatch("remedy|_?[A-Z_]+", ast.unparse(node.targets[0])):
                texts = [each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant)]
                constants[ast.unparse(node.targets[0])] = str(texts[0]) if texts else "{?}"
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                text = written(node.exc.args[0], constants)
                if ast.unparse(node.exc.func).endswith("Error") and not re.fullmatch(r"\{[^{}]*\}(; \{kept\})?", text):
                    yield text


def written(node: ast.expr, constants: dict[str, str]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part, constants) for part in node.values)
    if isinstance(node, ast.BinOp):
        return written(node.left, constants) + written(node.right, constants)
    source = ast.unparse(node.value if isinstance(node, ast.FormattedValue) else node)
    return constants.get(source, f"{{{source}}}")


def test_every_message_about_a_folder_ends_in_a_remedy_that_is_tried():
    remedies = [re.sub(r"\(\?P<\w+>([^()]*)\)", r"(\1)", remedy) for remedy in REMEDIES]
    found = list(messages())
    assert len(found) > 100
    placeholder = {
        "give {models[0]}": "give /x",
        "give {below[0]}": "give /x",
        "give its folder, {folder.parent}": "give its folder, /x",
    }
    placeholder["{self.folder / 'config.json'}"] = "config.json"
    for message in found:
        for text, put in placeholder.items():
            message = message.replace(text, put)
        message = re.sub(r"\{shlex\.quote\([^}]*\)\}", "x", message)
        message = re.sub(r"\{[^{}]*\}", "x", message) if "{wanted}" not in message else message
        assert any(re.search(remedy, message) for remedy in (*remedies, *UNTRIED)), message
