"""`secfl version`."""

from __future__ import annotations

import secfl
from secfl.cli.console import console

__all__ = ["version"]


def version() -> None:
    """Print the version."""
    console.print(f"secfl {secfl.__version__}")
