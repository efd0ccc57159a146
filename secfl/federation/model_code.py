"""What the user's model file raises, as one line that names the place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from protocols.errors import ConfigError, SecflError
from secfl.training.task import MODULE_PREFIX

__all__ = ["model_code"]


@contextmanager
def model_code(doing: str, *, quote: bool = True) -> Iterator[None]:
    """Run code of the user's model file.

    :param doing: what it is run for, in words.
    :param quote: whether its message is shown; not where it may quote records and ends up in a report.
    :raises ConfigError: it raised something else than an error of this library or of the system, which pass.
    """
    try:
        yield
    except (SecflError, OSError):
        raise
    except Exception as error:
        said = f": {error}" if quote else ""
        raise ConfigError("model.file", f"{type(error).__name__}{_place(error)} while {doing}{said}") from error


def _place(error: Exception) -> str:
    """The line of the model file that was reached last."""
    for frame, line in reversed(list(walk_tb(error.__traceback__))):
        if str(frame.f_globals.get("__name__")).startswith(MODULE_PREFIX):
            return f" at line {line}"
    return ""
