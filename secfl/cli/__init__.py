"""The command line: one file a command."""

from __future__ import annotations

from secfl.cli.app import main

__all__ = ["main"]
