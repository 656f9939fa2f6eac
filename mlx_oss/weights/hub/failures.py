"""What can go wrong between us and the Hub, each as one sentence with a remedy."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from mlx_oss.errors import DownloadError, MlxOssError, quoted
from mlx_oss.weights.hub.names import HubModel

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_VARIABLES = "check the environment variables that begin with HF_"
AGAIN = "the same command continues where it stopped"


def site() -> str:
    """The address of the Hub: HF_ENDPOINT if set, else Hugging Face's. Raises DownloadError if it is no address."""
    address = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise DownloadError(
            f"HF_ENDPOINT is {quoted(address)}: unset it, or give an address like https://huggingface.co"
        )
    return address


class TooSlow(OSError):
    """A server sends so little that the download would not end. The message says how little."""


@contextmanager
def hub_errors(model: HubModel, cache: Path) -> Iterator[None]:
    """Turns what `huggingface_hub`, its HTTP library and the disk raise into DownloadErrors."""
    site()  # a wrong one also breaks huggingface_hub's import
    try:
        from huggingface_hub import errors as hub
    except ValueError as error:
        raise DownloadError(f"huggingface_hub does not start ({error}): {_VARIABLES}") from None
    try:
        yield
    except MlxOssError:
        raise
    except hub.OfflineModeIsEnabled:
        raise DownloadError(
            f"{model} can neither be downloaded nor renewed, because HF_HUB_OFFLINE is set: unset it"
        ) from None
    except hub.DisabledRepoError:
        raise DownloadError(f"{site()} has disabled {model.repository}: use another model") from None
    except hub.GatedRepoError:
        raise DownloadError(
            f"{model} is given only to those who accept its terms: accept them on {site()}/{model.repository}, then "
            "log in with `hf auth login`, or set HF_TOKEN"
        ) from None
    except hub.RepositoryNotFoundError:
        raise DownloadError(
            f"{site()} has no model {model.repository}, or it is private: check the name; for a private model, log in "
            "with `hf auth login`, or set HF_TOKEN"
        ) from None
    except hub.RevisionNotFoundError:
        raise DownloadError(
            f"{model.repository} has no revision {model.revision}: leave it out, or see the history on "
            f"{site()}/{model.repository}/commits/main"
        ) from None
    except (hub.HTTPError, OSError) as error:
        raise DownloadError(f"{model} cannot be downloaded: {_reason(error, cache)}") from None
    except ValueError as error:
        raise DownloadError(f"{model} cannot be downloaded ({error}): {_VARIABLES}") from None


def _reason(error: BaseException, cache: Path) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return _status(response.status_code, response.headers.get("Retry-After"))
    if isinstance(error, TooSlow):
        return f"{error}: try again later, or use another network; {AGAIN}"
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"the disk of {cache} is full: free some space; {AGAIN}"
    if isinstance(error, OSError) and error.errno:
        return f"{error.filename or cache}: {error.strerror}: check what is there, and its permissions; {AGAIN}"
    if "Timeout" in type(error).__name__:
        return f"{site()} does not answer: try again later; {AGAIN}"
    return f"{site()} cannot be reached: check the network connection; {AGAIN}"


def _status(code: int, retry_after: str | None) -> str:
    if code in (401, 403):
        return "the Hub refuses the access token: log in with `hf auth login`, or set HF_TOKEN to one that may read it"
    if code == 429:
        wait = f"{retry_after} seconds" if re.fullmatch("[0-9]{1,5}", retry_after or "") else "some minutes"
        return f"the Hub takes no more requests from here for now: wait {wait}, or log in with `hf auth login`; {AGAIN}"
    if code == 404:
        return "a file of it is gone from the Hub: use another revision"
    return f"the Hub answers with HTTP status {code}: try again later; {AGAIN}"
