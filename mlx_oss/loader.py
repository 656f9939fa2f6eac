"""Loads a model from a checkpoint, or plans to: a release as it is, an MLX folder, or either by its name.

The checkpoint is checked first: it must contain every tensor that the config requires, once, in its shape and dtype,
and no other. Weights are read directly into the model's arrays, so the peak memory of loading is about the size of the
model. The result is an engine that runs the model. Knows nothing of layouts: it plans, reads and installs `Placement`s.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import mlx.core as mx

from mlx_oss import models
from mlx_oss.backend import device
from mlx_oss.backend.device_errors import device_errors
from mlx_oss.backend.host_memory import keep_freed_memory
from mlx_oss.errors import OptionError, quoted
from mlx_oss.generation import compute_thread
from mlx_oss.generation.local import LocalEngine
from mlx_oss.memory.plan import Plan, place_here, plan_for
from mlx_oss.model.fingerprint import fingerprint
from mlx_oss.model.sharding import WHOLE, Shard
from mlx_oss.model.transformer import Transformer
from mlx_oss.offload.install import install
from mlx_oss.shards import check_size
from mlx_oss.tokenizer_json import added_tokens
from mlx_oss.weights.hub.names import NANO
from mlx_oss.weights.layouts.checkpoint import Checkpoint, as_converted, check_loadable, open_model
from mlx_oss.weights.placements import Placement, quantized_modules
from mlx_oss.weights.reading import open_files, read
from mlx_oss.weights.sharded import identity, sharded

if TYPE_CHECKING:
    from mlx_oss.tokenizer import AddedToken, Tokenizer

DType = Literal["auto", "float32", "bfloat16"]

_log = logging.getLogger("mlx_oss")


def load(
    path: str | Path | None = None,
    *,
    dtype: DType = "auto",
    memory: str | int | None = None,
    context: int | None = None,
    wire: bool | None = None,
    progress: models.OnProgress | None = None,
    group: Any = None,
) -> tuple[LocalEngine, Tokenizer]:
    """Loads a model and the tokenizer.

    The model is an engine: give it to a `ChatSession`, submit a `Request`, or call it for logits, `model(tokens)`.
    `model.plan` describes how it is held in memory. It is also logged (logger "mlx_oss"): as a warning if weights stay
    on disk, or if no `context` was given and the model's full context does not fit.

    Args:
        path: Folder of the model: a release in Hugging Face's or OpenAI's layout (`original/`), as it was downloaded,
            or an MLX folder, written by `mlx-oss convert` or downloaded from mlx-community. Or the model's name on the
            Hugging Face Hub, such as "openai/gpt-oss-20b" or short "20b", also with "@revision": it is looked for on
            this disk, and downloaded if it is not there. None: nano, the bundled demonstration model.
        dtype: Dtype of the activations: "float32", "bfloat16" or "auto". "auto" is bfloat16 on a GPU, and float32 on
            the CPU backend, where it is faster.
        memory: Limit for the process, in bytes or as text like "8GB". None: as `plan` describes. If the weights do not
            fit, the embedding and the experts that are used least stay on disk. The answers are the same.
        context: Tokens that a conversation needs room for. None: chosen as `plan` describes.
        wire: Whether the weights are wired while the engine computes, as planned (`Plan.wired_bytes`), and until some
            seconds later. None: True, unless the environment variable MLX_OSS_WIRE is 0.
        progress: Called in this thread while the model is downloaded, or converted because it cannot be loaded as it
            is.
        group: Several machines that compute the model together, each with a part of it: what
            `mlx_oss.distributed.group()` returns in a program that `mlx.launch` has started, or
            `mx.distributed.init()`, which waits without an end for a machine that does not come. On all but the first
            one this function computes until the first one ends, and then raises SystemExit. They compute one model
            only. None: this machine alone.

    Returns:
        The model and its tokenizer: that of gpt-oss, with the tokens that the folder's tokenizer.json adds to it.

    Raises:
        OptionError: If an argument is out of range, or the memory is too small even with experts on disk.
        ConfigError: If config.json is missing or wrong; names the file and key.
        CheckpointError: If a weight file or tensor is missing or wrong, or the model has to be converted first; says
            which and why.
        DownloadError: If there is no model of this name, or it cannot be downloaded.
        ConversionError: If the model has to be converted, and cannot be written to the cache folder. The same for nano.
        TokenizerError: If the folder has another tokenizer than gpt-oss, or the bundled vocabulary is damaged.
        DeviceError: If MLX fails, for example because the memory is used up.
        EngineError: If this process was forked from one that has computed, or one of several machines is gone.
    """
    from mlx_oss.tokenizer import Tokenizer, load_tokenizer

    if not (group is None or isinstance(group, mx.distributed.Group)):
        raise OptionError(f"group is {quoted(group)}, expected what mlx.core.distributed.init() returns, or None")
    if progress is not None and not callable(progress):
        raise OptionError(f"progress is {quoted(progress)}, expected a function that is called with its state, or None")

    def check(checkpoint: Checkpoint) -> str:
        return use_here(checkpoint, dtype=dtype, memory=memory, context=context)

    def find() -> Path:
        return models.folder_of(NANO if path is None else path, progress=progress, check=check)

    if group is not None and group.size() > 1:
        from mlx_oss.distributed.launched import errors_told

        with errors_told():
            model, added = _loaded_together(find(), dtype, memory, context, wire, group)
    else:
        model, added = _loaded(find(), dtype, memory, context, None, wire)
    tokenizer = load_tokenizer()
    return model, Tokenizer(tokenizer.encoding, added) if added else tokenizer


def plan(
    path: str | Path | None = None,
    *,
    context: int | None = None,
    memory: str | int | None = None,
    chunk: int | None = None,
    dtype: str = "auto",
) -> Plan:
    """Plans how to hold a model in memory, without loading it.

    A plan is returned even if the memory is too small: see `Plan.verdict`.

    Args:
        path: Folder of the model, or its name, as for `load`; None: nano. Of a model that is not on this disk, only its
            config and the headers of its files are downloaded. A model that `load` would convert first is planned as
            converted.
        context: Tokens of context that have to fit. None: with everything in memory, the largest that fits of the
            model's limit, half of it, a quarter and so on, down to 8,192; with experts on disk, the largest that fits
            of 8,192, 4,096, 2,048 and 1,024.
        memory: Limit for the process, in bytes or as text like "8GB". None: what Metal recommends, less what macOS
            and other programs need; on other machines the memory that is free now.
        chunk: Tokens of a prompt that are processed at a time. None: 512, or fewer if that does not fit.
        dtype: Dtype of the activations, as for `load`.

    Returns:
        The plan that `load` follows for the same arguments.

    Raises:
        OptionError: If an argument is out of range.
        ConfigError: If config.json is missing or wrong.
        CheckpointError: If a weight file or tensor is missing or wrong, or if a folder has to be converted first.
        DownloadError: If there is no model of this name, or the Hub cannot be asked.
    """
    path = NANO if path is None else path
    checkpoint = models.checkpoint_of(path)
    if checkpoint.layout.must_convert and path != NANO and models.hub_model(path):
        checkpoint = as_converted(checkpoint)
    check_loadable(checkpoint)
    placements = place_here(checkpoint, dtype)
    return plan_for(checkpoint, placements, context=context, memory=memory, chunk=chunk, dtype=dtype)


def use_here(
    checkpoint: Checkpoint,
    *,
    dtype: str = "auto",
    memory: str | int | None = None,
    context: int | None = None,
    instead: str | None = "",
) -> str:
    """What this machine does with a model, in a sentence or two, before it is downloaded.

    Args:
        checkpoint: Its config and shapes. What has to be converted first is planned as converted.
        dtype: As for `load`.
        memory: As for `load`.
        context: As for `load`.
        instead: What a user can do if the memory is too small, for the error; if empty, `Plan.remedy`. None: it is no
            error, and the sentence says so.

    Raises:
        OptionError: If an argument is out of range, or the memory is too small even with experts on disk.
    """
    reason = checkpoint.layout.must_convert
    if reason:
        checkpoint = as_converted(checkpoint)
    chosen = plan_for(checkpoint, place_here(checkpoint, dtype), context=context, memory=memory, dtype=dtype)
    if chosen.verdict == "too small" and instead is not None:
        raise OptionError(f"{chosen}: {instead or chosen.remedy}")
    return f"It is converted afterwards, because {reason}. {chosen}" if reason else str(chosen)


def load_model(
    path: str | Path,
    *,
    dtype: DType = "auto",
    memory: str | int | None = None,
    context: int | None = None,
    slots: int | None = None,
    wire: bool | None = None,
) -> LocalEngine:
    """Loads a model without the tokenizer.

    Args:
        path: Folder of the model.
        dtype: Dtype of the activations, as for `load`.
        memory: Limit for the process, as for `load`.
        context: Tokens that a conversation needs room for, as for `load`.
        slots: Number of experts of each layer to keep in memory. None: as many as `memory` has room for.
        wire: Whether the weights are wired while the engine computes, as for `load`.

    Returns:
        The model, as `load` returns it.

    Raises:
        OptionError: If an argument is out of range, or the memory is too small even with experts on disk.
        ConfigError: If config.json is missing or wrong; names the file and key.
        CheckpointError: If a weight file or tensor is missing or wrong, or the model has to be converted first; says
            which and why.
        TokenizerError: If the folder has another tokenizer than gpt-oss.
        DeviceError: If MLX fails, for example because the memory is used up.
        EngineError: If this process was forked from one that has computed.
    """
    return _loaded(path, dtype, memory, context, slots, wire)[0]


def _loaded(
    path: str | Path,
    dtype: DType,
    memory: str | int | None,
    context: int | None,
    slots: int | None,
    wire: bool | None,
) -> tuple[LocalEngine, tuple[AddedToken, ...]]:
    """The model, and the tokens that its folder adds to those of gpt-oss."""
    compute_thread.check_process()
    checkpoint = open_model(path)
    added = added_tokens(checkpoint.folder, checkpoint.config.vocab_size)
    chosen, placements = _plan(checkpoint, dtype, memory, context, slots)
    _tell(chosen, checkpoint, context, is_asked_for=slots is not None)
    return _engine(_built(checkpoint, chosen, placements), chosen, added, wire), added


def _tell(chosen: Plan, checkpoint: Checkpoint, context: int | None, is_asked_for: bool = False) -> None:
    """Logs the plan; as a warning if not everything is in memory, or the context is shorter than it could be."""
    reduced = chosen.slots is not None or chosen.context < (context or checkpoint.config.max_position_embeddings)
    _log.log(logging.WARNING if reduced and not is_asked_for else logging.INFO, "%s", chosen)


def _built(
    checkpoint: Checkpoint,
    chosen: Plan,
    placements: tuple[Placement, ...],
    kind: type[Transformer] = Transformer,
    shard: Shard = WHOLE,
) -> Transformer:
    """The network with its weights, or with the part of them that the shard has."""
    compute_thread.mark_computing()
    with device_errors:
        keep_freed_memory(chosen.memory - chosen.peak_bytes - (chosen.cache_bytes - chosen.kv_bytes))
        rows_alternate = any(placement.rows_alternate for placement in placements)
        # MLX fills new layers with random numbers, which are replaced below. A thread on which it has drawn some must
        # not end while the process exits: see `compute_thread`.
        model = compute_thread.run(
            lambda: kind(checkpoint.config, quantized_modules(placements), rows_alternate=rows_alternate, shard=shard)
        )
        files, weights = open_files(placements), []
        if chosen.slots is not None:
            weights += install(model, chosen.slots, placements, files)
            placements = tuple(placement for placement in placements if not placement.can_stay_on_disk)
        weights += [(placement.name, array) for placement, array in read(placements, files)]
        model.load_weights(weights, strict=True)
        mx.eval(model.parameters())
    return model


def _engine(
    model: Transformer, chosen: Plan, added: Sequence[AddedToken], wire: bool | None, fingerprint: str | None = None
) -> LocalEngine:
    wire = os.environ.get("MLX_OSS_WIRE") != "0" if wire is None else wire
    wired_bytes, text_ids = chosen.wired_bytes if wire else 0, [token.id for token in added if not token.special]
    return LocalEngine(model, chosen, wired_bytes=wired_bytes, added_ids=text_ids, fingerprint=fingerprint)


def _loaded_together(
    path: str | Path, dtype: DType, memory: str | int | None, context: int | None, wire: bool | None, group: Any
) -> tuple[LocalEngine, tuple[AddedToken, ...]]:
    """Like `_loaded`, for one of several machines. Does not return on any but the first."""
    from mlx_oss.distributed.follower import Follower
    from mlx_oss.distributed.leader import LeadingTransformer
    from mlx_oss.distributed.meeting import Meeting

    compute_thread.check_process()
    checkpoint = open_model(path)
    added = added_tokens(checkpoint.folder, checkpoint.config.vocab_size)
    meeting = Meeting(group, {"model": identity(checkpoint), "dtype": str(device.activation_dtype(dtype))})
    rank = meeting.shard.rank
    check_size(checkpoint.config, rank.size)
    placements = sharded(place_here(checkpoint, dtype), checkpoint.config, rank)
    chosen = plan_for(checkpoint, placements, context=context, memory=memory, dtype=dtype, machines=rank.size)
    chosen = meeting.agreed(chosen)
    if rank.number == 0:
        _tell(chosen, checkpoint, context)
    model = _built(checkpoint, chosen, placements, Transformer if rank.number else LeadingTransformer, meeting.shard)
    with device_errors:
        found = fingerprint(model)
    if not isinstance(model, LeadingTransformer):
        meeting.follow(Follower(model))
        raise SystemExit(0)
    model.machines = meeting.lead()
    return _engine(model, chosen, added, wire, found), added


def _plan(
    checkpoint: Checkpoint, dtype: str, memory: str | int | None, context: int | None, slots: int | None = None
) -> tuple[Plan, tuple[Placement, ...]]:
    """The plan that loading follows. Raises OptionError if the memory is too small."""
    placements = place_here(checkpoint, dtype)
    chosen = plan_for(checkpoint, placements, context=context, memory=memory, dtype=dtype, slots=slots)
    if chosen.verdict == "too small":
        raise OptionError(f"{chosen}: {chosen.remedy}")
    return chosen, placements
