"""Hook of mkdocs: links that leave docs/ (to code, tests, examples) become the path as text; a site has no such files."""

from __future__ import annotations

import re
from typing import Any

_LEAVES_DOCS = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<up>(?:\.\./)+)(?P<path>[^)#\s]+)(?:#L(?P<line>\d+))?\)")


def on_page_markdown(markdown: str, *, page: Any, **_context: Any) -> str:
    """Replace the links of one page that lead above docs/."""
    depth = page.file.src_uri.count("/")

    def replaced(found: re.Match[str]) -> str:
        if found["up"].count("../") <= depth:
            return found[0]
        line = f":{found['line']}" if found["line"] else ""
        return f"`{found['path']}{line}`"

    return _LEAVES_DOCS.sub(replaced, markdown)
