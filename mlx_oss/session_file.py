"""A saved chat: one safetensors file with the conversation as JSON in its header and the caches as its tensors.

The text can be read whatever happens to the tensors. Both are sealed with checksums, and the file says which model the
caches are of: keys and values of another model would be nonsense that nobody notices. Knows nothing of turns.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_oss.errors import SessionError
from mlx_oss.model import Transformer

FORMAT = "mlx_oss session 1"


def fingerprint(model: Transformer) -> str:
    """Of a model's config, its dtype and some of each layer's weights; models that differ in it share no caches."""
    samples = [model.norm.weight, *(layer.self_attn.sinks for layer in model.layers)]
    samples += [layer.mlp.router.bias for layer in model.layers] + [model.lm_head.weight[0]]
    return _sha256(f"{model.config} {model.dtype}".encode(), *map(_bytes, samples))


def write(path: str | Path, conversation: Mapping[str, Any], caches: Mapping[str, mx.array]) -> None:
    """Writes beside the file and renames, so that a file of the name is whole. Raises SessionError if it cannot."""
    path = Path(path)
    caches = {name: mx.contiguous(array) for name, array in sorted(caches.items())}
    text = json.dumps({**conversation, "caches": _sha256(*map(_bytes, caches.values()))}, ensure_ascii=False)
    unfinished = path.with_name(f".{path.name}.unfinished.safetensors")
    try:
        mx.save_safetensors(str(unfinished), caches, {"format": FORMAT, "text": text, "seal": _sha256(text.encode())})
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:
        unfinished.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise SessionError(f"{path} cannot be written ({reason}): give another place") from None


def read(path: str | Path, *, damaged: bool = False) -> dict[str, Any]:
    """The conversation in a saved file; `damaged` takes it as long as it can be read at all."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError
            header = json.loads(file.read(length).decode(errors="replace" if damaged else "strict"))
        metadata = header["__metadata__"]
        text = metadata["text"]
        if metadata["format"] != FORMAT and not damaged:
            raise SessionError(f"{path} has format {metadata['format']!r}, {FORMAT!r} is known: update mlx-oss")
        if _sha256(text.encode()) != metadata["seal"] and not damaged:
            raise SessionError(f"{path} is damaged: `text_only=True` recovers what can be read of the conversation")
        return json.loads(text)
    except OSError as error:
        raise SessionError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise SessionError(f"{path} is no saved session, or damaged beyond recovery") from None


def read_caches(path: str | Path, conversation: Mapping[str, Any]) -> dict[str, mx.array]:
    """The tensors of a saved file, compared with the checksum in `conversation`."""
    try:
        caches = mx.load(str(path), format="safetensors")
        assert isinstance(caches, dict)
        caches = dict(sorted(caches.items()))
        if _sha256(*map(_bytes, caches.values())) == conversation["caches"]:
            return caches
    except (OSError, RuntimeError, ValueError):
        pass
    raise SessionError(f"{path} has damaged caches: `text_only=True` recovers the conversation, to be read anew")


def _bytes(array: mx.array) -> bytes | memoryview:
    return np.array(mx.contiguous(array).reshape(-1).view(mx.uint8)).data


def _sha256(*parts: bytes | memoryview) -> str:
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    return checksum.hexdigest()
