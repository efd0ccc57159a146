"""The public names and signatures are the committed ones: what users build on does not change by accident.

`python tests/secfl/test_public_api.py` writes the snapshot anew, to be reviewed like any other change.
"""

from __future__ import annotations

import difflib
import enum
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NewType

import pytest

SNAPSHOT = Path(__file__).with_name("public_api.txt")
PUBLIC = (
    "protocols",
    "protocols.errors",
    "protocols.secagg",
    "protocols.shape",
    "secfl",
    "secfl.aggregation",
    "secfl.config",
    "secfl.encoding",
    "secfl.engines",
    "secfl.events",
    "secfl.federation",
    "secfl.privacy",
    "secfl.report",
    "secfl.training",
)
"""What users import from; other modules may change without notice."""
REGENERATE = "python tests/secfl/test_public_api.py"


def modules() -> Iterator[ModuleType]:
    """The public modules."""
    return (importlib.import_module(name) for name in PUBLIC)


def describe(name: str, value: Any) -> Iterator[str]:
    """Lines for one public name: a signature; for a class, those of its public methods as well."""
    if isinstance(value, ModuleType):
        yield f"{name}: module"
    elif inspect.isclass(value) and issubclass(value, enum.Enum):
        yield f"enum {name}: {', '.join(value.__members__)}"
    elif isinstance(value, NewType):
        yield f"{name}: new type of {value.__supertype__.__name__}"
    elif inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {name}({bases}){signature(value)}"
        for member, item in sorted(vars(value).items()):
            if not member.startswith("_"):
                yield from (f"    {line}" for line in describe_member(member, item))
    elif callable(value):
        yield f"def {name}{signature(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def describe_member(name: str, item: Any) -> Iterator[str]:
    """A line for a public member of a class; plain values and fields are in the class's signature or its type."""
    function = item.__func__ if isinstance(item, classmethod | staticmethod) else item
    if inspect.isfunction(function):
        kind = {classmethod: "classmethod ", staticmethod: "staticmethod "}.get(type(item), "")
        yield f"{kind}def {name}{signature(function)}"
    elif isinstance(item, property) or type(item).__name__ in ("cached_property", "_tuplegetter"):
        yield f"property {name}"


def signature(value: Any) -> str:
    """The signature with its annotations as written; addresses of default objects are left out."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    parameters = [
        parameter.replace(default=Shown(parameter.default))
        if parameter.default is not inspect.Parameter.empty
        else parameter
        for parameter in found.parameters.values()
    ]
    return str(found.replace(parameters=parameters))


class Shown:
    """A default as it is shown: the name of a function or class, the `repr` of a plain value."""

    def __init__(self, default: Any) -> None:
        self._default = default

    def __repr__(self) -> str:
        if isinstance(self._default, frozenset | set):
            return f"{{{', '.join(sorted(map(repr, self._default)))}}}"
        name = getattr(self._default, "__qualname__", None)
        text = name if isinstance(name, str) else repr(self._default)
        return text if " at 0x" not in text and not text.startswith("<") else f"<{type(self._default).__name__}>"


def current() -> str:
    """The public names of today."""
    lines: list[str] = []
    described: dict[int, str] = {}
    for module in modules():
        lines.append(f"# {module.__name__}")
        for name in sorted(module.__all__):
            value = getattr(module, name)
            if id(value) in described:
                lines.append(f"{name}: {described[id(value)]}")
            else:
                lines.extend(describe(name, value))
                if inspect.isclass(value) or inspect.isfunction(value):
                    described[id(value)] = f"{module.__name__}.{name}"
        lines.append("")
    return "\n".join(lines)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="each version of Python shows signatures in its own way")
def test_public_names_and_signatures_are_the_committed_ones() -> None:
    found, committed = current(), SNAPSHOT.read_text()
    difference = "\n".join(
        difflib.unified_diff(committed.splitlines(), found.splitlines(), "committed", "found", lineterm="", n=0)
    )
    assert not difference, (
        f"the public interface has changed:\n{difference}\n\nIf that is meant: {REGENERATE}\n"
        "then review the change of public_api.txt, and name it in CHANGELOG.md if users will notice."
    )


def test_every_public_name_exists_and_is_listed_once() -> None:
    for module in modules():
        names = module.__all__
        assert len(names) == len(set(names)), module.__name__
        for name in names:
            assert hasattr(module, name), f"{module.__name__}.{name}"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    SNAPSHOT.write_text(current())
    print(f"wrote {SNAPSHOT}")  # the packages are those that this interpreter finds
