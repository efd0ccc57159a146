"""The JSON schema of a report: ``python -m secfl.report.schema > docs/reference/report.schema.json``."""

from __future__ import annotations

import sys

import msgspec

from secfl.report.model import RunReport

__all__ = ["schema_json"]


def schema_json() -> bytes:
    """JSON Schema (2020-12) of :class:`RunReport`, made from its types; indented, ending in a newline."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(RunReport)}
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(schema_json())
