"""The copies of models that are on this disk: in Hugging Face's cache, in LM Studio's folder, and in ours.

Reads the names of files, configs and indexes; of weight files only whether they are there. Changes nothing but in
`remove` and `remove_revision`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlx_oss.config import read_json
from mlx_oss.errors import ConfigError
from mlx_oss.files import expanded, read_bytes
from mlx_oss.folders import cache_folder
from mlx_oss.weights.hub import choice
from mlx_oss.weights.hub.names import HubModel, parse

HUGGING_FACE, LM_STUDIO, OURS = "Hugging Face's cache", "LM Studio", "mlx-oss"

_PREFIX = "models--"
_CONVERTED = "converted"  # the folder in our cache
_REF_BYTES = 4096
_LARGE = re.compile(r"[0-9a-f]{64}(\.incomplete)?")  # a file outside of git, named by its sha256
_SHORT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a model on this disk.

    Attributes:
        model: Its name on the Hub. The revision is the commit, where it is known.
        place: Whose copy it is: "Hugging Face's cache", "LM Studio" or "mlx-oss".
        folder: The folder to load. It does not exist if nothing but parts of files are there.
        root: The folder that holds everything that belongs to the copy, and to no other model.
        is_whole: True if all its files are there.
    """

    model: HubModel
    place: str
    folder: Path
    root: Path
    is_whole: bool

    @property
    def layout_folder(self) -> str:
        """The folder of the layout in the repository, "" or one that ends in a slash."""
        name = f"{self.folder.name}/"
        return name if self.place == HUGGING_FACE and self.is_whole and name in choice.FOLDERS else ""

    @property
    def has_weights(self) -> bool:
        """False if the model was only looked into: nothing but its config, index and other small files is there."""
        blobs = _names(self.root / "blobs") if self.place == HUGGING_FACE else []
        return any(name.endswith(".safetensors") or name == choice.METAL_FILE for name in _names(self.folder)) or any(
            map(_LARGE.fullmatch, blobs)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of its files. With unfinished ones, if no other revision is beside it."""
        alone = self.place != HUGGING_FACE or len(_names(self.root / "snapshots")) < 2
        return disk_bytes(self.root) if alone else disk_bytes(self.folder, follow=True)


def hub_cache() -> Path:
    """The folder of Hugging Face's cache, as `huggingface_hub` chooses it."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(variable):
            return expanded(os.path.expandvars(value))
    if value := os.environ.get("HF_HOME"):
        return expanded(os.path.expandvars(value)) / "hub"
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def cache_entry(repository: str) -> Path:
    """The folder of a repository in Hugging Face's cache."""
    return hub_cache() / f"{_PREFIX}{repository.replace('/', '--')}"


def converted_folder(model: HubModel) -> Path | None:
    """Where our conversion of a model lies, whether it is there or not. None if there is no cache folder."""
    cache = cache_folder()
    if cache is None:
        return None
    return cache / _CONVERTED / str(model).replace("/", "--")


def name_of(folder: Path) -> str:
    """What to call the model in a folder: its name if it was downloaded or converted by its name, else the folder's."""
    for path in folder.parents:
        entry = path.parent.name
        if path.name == "snapshots" and entry.startswith(_PREFIX):
            return entry.removeprefix(_PREFIX).replace("--", "/")
    is_ours = folder.parent.name == _CONVERTED and parse(folder.name.replace("--", "/"))
    return str(is_ours.repository) if is_ours else folder.name or "the model"


def find(model: HubModel, *, as_released: bool = False) -> Copy | None:
    """The copy of a model to use: one that is whole, or else one whose download can be completed.

    Args:
        model: The model.
        as_released: Leave out what we have converted.
    """
    found = [copy for copy in _candidates(model) if not (as_released and copy.place == OURS)]
    return next((copy for copy in found if copy.is_whole), found[0] if found else None)


def all_copies() -> list[Copy]:
    """Every copy of a gpt-oss model on this disk, each revision for itself, by name."""
    copies = [*_converted(), *_hugging_face(), *_lm_studio()]
    return sorted(
        (copy for copy in copies if _is_ours(copy)), key=lambda copy: (copy.model.repository.lower(), copy.place)
    )


def of_revision(model: HubModel) -> list[Copy]:
    """The copies of one revision."""
    cached = list(_in_cache(cache_entry(model.repository), model.revision))
    commits = {model.revision, *(copy.model.revision for copy in cached)}
    ours = (copy for copy in _converted() if _same_name(copy.model, model) and copy.model.revision in commits)
    return [*ours, *cached]


def remove(copy: Copy) -> None:
    """Removes everything that belongs to a copy, with its other revisions. Raises OSError if it cannot be removed."""
    shutil.rmtree(copy.root)
    if copy.place == HUGGING_FACE:  # the locks of its files
        shutil.rmtree(copy.root.parent / ".locks" / copy.root.name, ignore_errors=True)


def remove_revision(copy: Copy) -> None:
    """Removes a copy, and leaves other revisions beside it as they are. Raises OSError if it cannot be removed."""
    snapshots = copy.root / "snapshots"
    if copy.place != HUGGING_FACE or _names(snapshots) == [str(copy.model.revision)]:
        return remove(copy)
    snapshot = snapshots / str(copy.model.revision)
    blobs = _linked(snapshot)
    shutil.rmtree(snapshot)
    for blob in blobs - _linked(snapshots):
        if blob.parent == Path(os.path.realpath(copy.root / "blobs")):
            blob.unlink(missing_ok=True)
    for reference in (copy.root / "refs").rglob("*"):
        if _referred(reference) == copy.model.revision:
            reference.unlink()


def is_whole(folder: Path) -> bool:
    """True if every weight file of the model in a folder is there. Their content is not read."""
    # os.path's functions say no where pathlib's (until 3.14) raise: without permission, or if the name is too long.
    if not os.path.isfile(folder / "config.json"):
        return os.path.isfile(folder / "model.bin")
    names = _names(folder)
    indexed = choice.index_files(folder / choice.INDEX)
    wanted = choice.weights(names, indexed)
    return bool(wanted) and not choice.missing_shards(wanted) and all(os.path.isfile(folder / name) for name in wanted)


def disk_bytes(root: Path, *, follow: bool = False) -> int:
    """The size of the files below a folder; those that links lead to count only if `follow` is set."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(folder, name), follow_symlinks=follow).st_size
    return total


def _candidates(model: HubModel) -> Iterator[Copy]:
    """The copies that may stand for a model. Those of the revision that the cache knows as the current come first."""
    cached = list(_in_cache(cache_entry(model.repository), model.revision))
    commits = {model.revision, *(copy.model.revision for copy in cached)} - {None}
    same = [copy for copy in (*_converted(), *_lm_studio()) if _same_name(copy.model, model)]
    yield from (copy for copy in same if copy.place == OURS and copy.model.revision in commits)
    yield from cached
    if model.revision is None:
        yield from (copy for copy in same if copy.place == LM_STUDIO)
        older = [copy for copy in same if copy.place == OURS and copy.model.revision not in commits]
        yield from sorted(older, key=lambda copy: copy.folder.stat().st_mtime, reverse=True)


def _same_name(one: HubModel, other: HubModel) -> bool:
    return one.repository.lower() == other.repository.lower()


def _hugging_face() -> Iterator[Copy]:
    cache = hub_cache()
    for name in _names(cache):
        if name.startswith(_PREFIX):
            yield from _in_cache(cache / name, None, every=True)


def _in_cache(root: Path, revision: str | None, *, every: bool = False) -> Iterator[Copy]:
    """The copies in a repository's folder of the cache.

    Args:
        root: The folder.
        revision: The revision that is wanted. None: what the cache knows as main; if it knows none, all that are there.
        every: All revisions, main first.
    """
    model = parse(root.name.removeprefix(_PREFIX).replace("--", "/"))
    if model is None or not os.path.isdir(root):
        return
    there = [name for name in _names(root / "snapshots") if os.path.isdir(root / "snapshots" / name)]
    commit = _commit(root, revision, there)
    if commit in there or revision is not None:
        others = [name for name in there if every and name != commit]
        there = [name for name in there if name == commit] + others
    for name in there:
        snapshot = root / "snapshots" / name
        folders = [snapshot / folder for folder in choice.FOLDERS]
        folder = next((folder for folder in folders if is_whole(folder)), snapshot)
        yield Copy(HubModel(model.repository, name), HUGGING_FACE, folder, root, is_whole(folder))
    if not there and revision is None and _names(root / "blobs"):
        yield Copy(model, HUGGING_FACE, root / "snapshots" / "none", root, is_whole=False)


def _commit(root: Path, revision: str | None, there: list[str]) -> str | None:
    """The commit of a revision, as the cache knows it: of a branch, of a tag, or of the beginning of a commit."""
    if revision in there:
        return revision
    if commit := _referred(root / "refs" / (revision or "main")):
        return commit
    begins = [name for name in there if revision and _SHORT.fullmatch(revision) and name.startswith(revision)]
    return begins[0] if len(begins) == 1 else None


def _referred(reference: Path) -> str | None:
    """The commit in a file of `refs`."""
    with contextlib.suppress(OSError, ValueError):
        commit = read_bytes(reference, _REF_BYTES).decode().strip()
        return commit if commit.isalnum() else None
    return None


def _linked(folder: Path) -> set[Path]:
    """What the links below a folder lead to."""
    return {Path(os.path.realpath(path)) for path in folder.rglob("*") if path.is_symlink()}


def _lm_studio() -> Iterator[Copy]:
    for models in _lm_studio_folders():
        with contextlib.suppress(OSError):
            for root in sorted(models.glob("*/*")):
                if os.path.isdir(root) and (model := parse(f"{root.parent.name}/{root.name}")):
                    yield Copy(model, LM_STUDIO, root, root, is_whole(root))


def _lm_studio_folders() -> list[Path]:
    """Where LM Studio keeps models: it writes its folder's path into a file in the home folder."""
    homes = [expanded("~/.lmstudio"), expanded("~/.cache/lm-studio")]
    with contextlib.suppress(OSError, ValueError):
        homes.insert(0, Path(read_bytes(expanded("~/.lmstudio-home-pointer"), _REF_BYTES).decode().strip()))
    return [home / "models" for home in dict.fromkeys(homes) if home.is_absolute()]


def _converted() -> Iterator[Copy]:
    cache = cache_folder()
    if cache is None:
        return
    with contextlib.suppress(OSError):
        for root in sorted((cache / _CONVERTED).iterdir()):
            model = parse(root.name.replace("--", "/"))
            if model is not None and os.path.isdir(root):
                yield Copy(model, OURS, root, root, is_whole(root))


def _is_ours(copy: Copy) -> bool:
    """True for a gpt-oss model, and for a download of which nothing can be told yet but its name."""
    try:
        raw = read_json(copy.folder / "config.json")
    except ConfigError:
        return "gpt-oss" in copy.model.repository
    return raw.get("model_type") == "gpt_oss" or {"num_experts", "rope_ntk_alpha"} <= raw.keys()


def _names(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(entry.name for entry in os.scandir(folder))
    return []
