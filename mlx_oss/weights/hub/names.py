"""Names of models: `20b`, `openai/gpt-oss-20b`, `somebody/fine-tune@revision`. Knows nothing of files and networks."""

from __future__ import annotations

import re
from dataclasses import dataclass

ALIASES = {
    "20b": "openai/gpt-oss-20b",
    "120b": "openai/gpt-oss-120b",
    "gpt-oss-20b": "openai/gpt-oss-20b",
    "gpt-oss-120b": "openai/gpt-oss-120b",
}
NANO = "nano"

_LONGEST = 96  # characters that the Hub allows
_PART = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./-]{0,254}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SITE = re.compile(r"^(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the Hub.

    Attributes:
        repository: Owner and name, such as "openai/gpt-oss-20b".
        revision: A branch, a tag or a commit. None: the main branch.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"

    @property
    def is_commit(self) -> bool:
        """True if the revision is a commit, which never changes."""
        return self.revision is not None and bool(_COMMIT.fullmatch(self.revision))


def parse(name: str) -> HubModel | None:
    """Reads a name of the Hub, one of `ALIASES`, or the address of a model's page. Returns None for anything else."""
    name, _, revision = _SITE.sub("", name.strip()).partition("@")
    repository = ALIASES.get(name.lower(), name.rstrip("/"))
    if len(repository) > _LONGEST or not _REPOSITORY.fullmatch(repository):
        return None
    if any(mark in repository for mark in ("--", "..")):  # the Hub refuses both; the cache's folders have them
        return None
    if not revision:
        return HubModel(repository)
    if not _REVISION.fullmatch(revision) or ".." in revision or revision.endswith("/"):
        return None
    return HubModel(repository, revision)
