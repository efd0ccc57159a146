"""One line for each mistake in a configuration: the key, what is wrong with it, what is allowed there."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from protocols.errors import ConfigError

__all__ = ["describe_problem"]

_LONGEST_VALUE = 60
_NAME_PATTERN = "1 to 64 of a-z 0-9 . _ -, a letter or digit first"
_WANTED: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
_FOUND = {bool: "a truth value", int: "an integer", float: "a number", str: "a string"}


def describe_problem(schema: type[BaseModel], error: ValidationError) -> ConfigError:
    """The first problem that a schema found.

    :param schema: what was validated; its fields say what is allowed.
    """
    problems = error.errors(include_url=False)
    # A misspelt key often shows up as a missing one as well: the misspelling says more.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    path, value = first["loc"], first["input"]
    key = ".".join(map(str, path)) or "configuration"
    if first["type"] == "extra_forbidden":
        return _unknown_key(key, str(path[-1]), _field(schema, path[:-1])[0])
    annotation, constraints = _field(schema, path)
    allowed = _describe(annotation, constraints)
    if first["type"] == "missing":
        return ConfigError(key, "missing", allowed)
    return ConfigError(key, _describe_value(value, annotation), allowed)


def _unknown_key(key: str, name: str, section: Any) -> ConfigError:
    names = list(section.model_fields)
    close = difflib.get_close_matches(name, names, n=1)
    return ConfigError(key, f"unknown key{f', did you mean {close[0]!r}?' if close else ''}", ", ".join(names))


def _describe_value(value: object, annotation: Any) -> str:
    shown = repr(value).lower() if isinstance(value, bool) else repr(value)
    if isinstance(value, dict):
        return "is a table"
    if isinstance(value, list):
        return f"is an array of {len(value)}" if annotation is tuple else "is an array"
    if len(shown) > _LONGEST_VALUE:
        shown = f"{shown[:_LONGEST_VALUE]}..."
    acceptable = (int, float) if annotation is float else (annotation,)
    if get_origin(annotation) is not Literal and type(value) not in acceptable:
        return f"{shown} is {_FOUND.get(type(value), type(value).__name__)}"
    return f"{shown} cannot be used"


def _field(schema: Any, path: Iterable[int | str]) -> tuple[Any, list[Any]]:
    """Type and constraints of what stands at a path; ``tuple`` for an array."""
    annotation, items = schema, None
    constraints: list[Any] = []
    for part in path:
        if isinstance(part, int):
            annotation, constraints = _unwrap(items, [])
        else:
            field: FieldInfo = annotation.model_fields[part]
            annotation, constraints = _unwrap(field.annotation, list(field.metadata))
        items = None
        if get_origin(annotation) is tuple:
            items, annotation = get_args(annotation)[0], tuple
            constraints.append(_unwrap(items, [])[0])
    return annotation, constraints


def _unwrap(annotation: Any, constraints: list[Any]) -> tuple[Any, list[Any]]:
    """Take ``Annotated`` and ``| None`` off: TOML cannot say None."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            for item in more:
                constraints += item.metadata if isinstance(item, FieldInfo) else [item]
        elif get_origin(annotation) in (Union, types.UnionType):
            annotation = next(item for item in get_args(annotation) if item is not types.NoneType)
        else:
            return annotation, constraints


def _describe(annotation: Any, constraints: list[Any]) -> str:
    """What is allowed, in words."""
    if get_origin(annotation) is Literal:
        return " or ".join(f'"{value}"' for value in get_args(annotation))
    if annotation is tuple:
        of = "tables" if isinstance(constraints[-1], type) and issubclass(constraints[-1], BaseModel) else "values"
        least = _bound(constraints, "min_length")
        return f"an array of {f'at least {least} ' if least else ''}{of}"
    if annotation not in _WANTED:
        return "a table"
    if _bound(constraints, "pattern") is not None:
        return _NAME_PATTERN
    word = _WANTED[annotation]
    if annotation is str and _bound(constraints, "min_length"):
        return f"{word}, not empty"
    return f"{word}{_range(constraints)}"


def _range(constraints: list[Any]) -> str:
    lowest, above = _bound(constraints, "ge"), _bound(constraints, "gt")
    highest, below = _bound(constraints, "le"), _bound(constraints, "lt")
    if isinstance(lowest, int) and isinstance(below, int) and lowest + 1 < below:
        highest, below = below - 1, None
    if lowest is not None and highest is not None:
        return f" from {lowest} to {highest}"
    bounds = ((">=", lowest), (">", above), ("<=", highest), ("<", below))
    limits = " and ".join(f"{sign} {limit}" for sign, limit in bounds if limit is not None)
    return f" {limits}" if limits else ""


def _bound(constraints: list[Any], name: str) -> Any:
    return next((getattr(item, name) for item in constraints if getattr(item, name, None) is not None), None)
