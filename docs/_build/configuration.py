"""Writes docs/reference/configuration.md from the schema, ``python docs/_build/configuration.py``.

What is allowed is said in the words of the errors (`secfl.config_messages`), so that page and refusals agree.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from secfl import config_sections
from secfl.config import Config
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

# What a docstring in the schema does not say: meaning, defaults that follow from other keys, rules between keys.
_NOTES = {
    ("Run", "name"): "Opens the name of the run's directory.",
    ("Run", "rounds"): "With privacy the noise is chosen so that this many fit the budget.",
    ("Model", "file"): "See [Write a model file](../how-to/model-file.md).",
    ("SiloSettings", "name"): "Two silos never share one.",
    ("Training", "mode"): 'See [Privacy modes](../explanation/privacy-modes.md). `"none"`: no privacy, no `[privacy]`.',
    (
        "Training",
        "steps_per_round",
    ): "Gradient steps at each silo. With `distributed-dp-sgd` 1 and nothing else: a round is a step.",
    (
        "Training",
        "learning_rate",
    ): "Of the local SGD; with `distributed-dp-sgd` of the step on the noised mean gradient.",
    (
        "Training",
        "momentum",
    ): "Of the local SGD; starts at zero in every round. Not with `distributed-dp-sgd`: see `server.momentum`.",
    ("Training", "clip_norm"): "Required with privacy.",
    ("Training", "grad_sample"): '`"ghost"` computes norms alone and runs a second backward pass: for large layers.',
    ("Training", "max_physical_batch"): "Records in memory at a time; left out: no bound. No effect on the result.",
    ("Training", "pad_batches"): "Costs the time of the fillers. No effect on the result.",
    ("Privacy", "epsilon"): "Fixed when a lifetime ledger begins; another value later is refused.",
    (
        "Privacy",
        "delta",
    ): "At most min(1e-5, 1 / (10 N)), N the sum of all nominal sizes, or the number of clients. Fixed like epsilon.",
    ("Privacy", "unit"): "Never a person, who may have many records.",
    ("LedgerSettings", "lineage"): "Name of these records and all their later versions.",
    ("LedgerSettings", "source"): "Where the records come from, in words.",
    ("Aggregation", "protocol"): "See [Choose and switch the protocol](../how-to/choose-protocol.md).",
    (
        "Aggregation",
        "weights",
    ): "Public weights in the mean: nominal sizes, or all alike. Not with `distributed-dp-sgd`.",
    ("Aggregation", "value_range"): "Required, but not where sums have noise: there the clip norm bounds vectors.",
    ("Aggregation", "value_bits"): "Only with secagg where sums have noise.",
    ("Aggregation", "rounding"): "Stochastic rounding is unbiased.",
    ("Aggregation", "collusion_bound"): "c, parties assumed to collude with the server: 0 to n - 2; oneshot: 3c < m, "
    "m the committee's size, as well. Left out: n // 3, or the most that fits.",
    ("Aggregation", "threshold"): "t. secagg: 2t > n + c, of the cohort; oneshot: 2t > m + c and t <= m - c, of the "
    "committee of m. Left out: the smallest.",
    (
        "Aggregation",
        "minimum_contributors",
    ): "c + 2 to n. Left out: c + 2, and 3 where there are 3 silos; with noise in sums (`distributed-dp-sgd`, "
    "`client-level`) nine tenths of those asked, or all but one, if that is more: shares of noise are made for so few.",
    ("Server", "optimiser"): "What the server does with the mean update.",
    ("Server", "learning_rate"): "1 with sgd and no momentum is federated averaging.",
    ("Server", "beta1"): "Of adam and yogi.",
    ("Server", "beta2"): "Of adam and yogi.",
    ("Rounds", "mode"): "See [Run without waiting for slow silos](../how-to/buffered-rounds.md).",
    ("Evaluation", "epsilon"): "Required with `secure`. See [What else leaks](../explanation/leaks.md).",
    ("Incident", "party"): "A silo's name.",
    ("Incident", "kind"): "See [Survive dropouts](../how-to/dropouts.md).",
}


def page() -> str:
    """The whole page."""
    notes = _attribute_notes(inspect.getsource(config_sections))
    parts = [_HEAD]
    for name, field in Config.model_fields.items():
        section = _section(field)
        if not all(map(_is_tables, section.model_fields.values())):
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
        "| key | allowed | default | meaning |",
        "|---|---|---|---|",
    ]
    for key, inner in section.model_fields.items():
        if _is_tables(inner):
            continue
        allowed = _describe(*_field(section, (key,))).replace("|", "\\|")
        place = (section.__name__, key)
        note = " ".join(text for text in (notes.get(place, ""), _NOTES.get(place, "")) if text)
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
