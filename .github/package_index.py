"""Prepares a checkout for a package index, where relative links lead nowhere and a project needs its address.

    python .github/package_index.py https://github.com/OWNER/NAME TAG

Rewrites README.md and pyproject.toml in place. Only the publish workflow runs it, on a checkout of its own.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_LINK = re.compile(r"(!?\[[^\]]*\]\()(?!https?://|#|mailto:)([^)\s]+)\)")


def absolute_links(markdown: str, repository: str, tag: str) -> str:
    """The text with every relative link of Markdown turned into the file's address in the repository at that tag."""
    return _LINK.sub(lambda link: f"{link[1]}{repository}/blob/{tag}/{link[2]})", markdown)


def with_urls(pyproject: str, repository: str) -> str:
    """pyproject.toml with the repository's addresses added to [project.urls]."""
    head = "[project.urls]\n"
    assert head in pyproject
    urls = f'Repository = "{repository}"\nIssues = "{repository}/issues"\n'
    urls += f'Changelog = "{repository}/blob/main/CHANGELOG.md"\n'
    return pyproject.replace(head, head + urls, 1)


def main(repository: str, tag: str) -> None:
    """Rewrites both files of the working folder."""
    readme, project = Path("README.md"), Path("pyproject.toml")
    readme.write_text(absolute_links(readme.read_text(encoding="utf-8"), repository, tag), encoding="utf-8")
    project.write_text(with_urls(project.read_text(encoding="utf-8"), repository), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
