"""Hooks of mkdocs: every decision record gets its place in the navigation, and links to code become text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DECISIONS = "decisions/README.md"
_LEAVES_DOCS = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<up>(?:\.\./)+)(?P<path>[^)#\s]+)(?:#L(?P<line>\d+))?\)")


def on_config(config: Any) -> None:
    """Put the decision records, in their order, below the list of them."""
    folder = Path(config["docs_dir"]) / "decisions"
    records = [f"decisions/{path.name}" for path in sorted(folder.glob("[0-9]*.md"))]
    config["nav"] = [
        {title: [target, *records] if target == DECISIONS else target for title, target in entry.items()}
        for entry in config["nav"]
    ]


def on_page_markdown(markdown: str, *, page: Any, **_context: Any) -> str:
    """Replace links that lead above docs/ (to code, tests, examples) by the path: a site has no such files."""
    depth = page.file.src_uri.count("/")

    def replaced(found: re.Match[str]) -> str:
        if found["up"].count("../") <= depth:
            return found[0]
        line = f":{found['line']}" if found["line"] else ""
        return f"`{found['path']}{line}`"

    return _LEAVES_DOCS.sub(replaced, markdown)
