"""Writes docs/reference/configuration.md from the schema in secfl/config.py: ``python docs/_build/configuration.py``.

What is allowed is said in the words of the errors (`secfl.config_messages`), so that page and refusals agree.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType
from typing import get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from secfl import config
from secfl.config_messages import _describe, _field

PAGE = Path(__file__).parents[1] / "reference" / "configuration.md"

_HEAD = """# Configuration

A run is described by one TOML file. Every value in it is public: none may be derived from private records. An unknown
key, a string in place of a number, a value out of its range: each is refused with the key and what is allowed there
(exit code 3). Paths are relative to the configuration file, except `run.output`, which is relative to the working
directory.

`secfl run` keeps a copy of the file with the run; `secfl resume` refuses a copy that was changed.

This page is written by `python docs/_build/configuration.py`; a test compares it with the schema.
"""


def page(module: ModuleType = config) -> str:
    """The whole page."""
    notes = _attribute_notes(inspect.getsource(module))
    parts = [_HEAD]
    for name, field in module.Config.model_fields.items():
        section = _section(field)
        parts.append(_table(name, field, section, notes))
        for inner, inner_field in section.model_fields.items():
            if _is_tables(inner_field):
                parts.append(_table(f"{name}.{inner}", inner_field, _section(inner_field), notes))
    return "\n".join(parts)


def _table(name: str, field: FieldInfo, section: type[BaseModel], notes: dict[tuple[str, str], str]) -> str:
    brackets = ("[[", "]]") if _is_tables(field) else ("[", "]")
    need = "Required." if field.is_required() else "Optional."
    lines = [
        f"## `{brackets[0]}{name}{brackets[1]}`",
        "",
        f"{_first_paragraph(section)} {need}",
        "",
        "| key | allowed | default | |",
        "|---|---|---|---|",
    ]
    for key, inner in section.model_fields.items():
        if _is_tables(inner):
            continue
        allowed = _describe(*_field(section, (key,))).replace("|", "\\|")
        note = notes.get((section.__name__, key), "")
        lines.append(f"| `{key}` | {allowed} | {_default(inner)} | {note} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default is None or field.default is PydanticUndefined:
        return "left out"
    value = field.default
    shown = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else f"{value}"
    return f"`{shown}`"


def _is_tables(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def _section(field: FieldInfo) -> type[BaseModel]:
    """The table's class behind ``Section``, ``Section | None`` or an array of them."""
    candidates = [field.annotation]
    while candidates:
        annotation = candidates.pop(0)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        candidates += get_args(annotation)
    raise TypeError(f"{field}: no table")


def _first_paragraph(section: type[BaseModel]) -> str:
    return " ".join(inspect.cleandoc(section.__doc__ or "").split("\n\n")[0].split())


def _attribute_notes(source: str) -> dict[tuple[str, str], str]:
    """The string below a field, by class and field."""
    notes = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for before, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                notes[node.name, before.target.id] = " ".join(after.value.value.split()).replace("|", "\\|")
    return notes


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
