"""Checkpoint of a run: the global model, the optimiser's moments and the rounds so far, in one safetensors file.

Tensors and records in one file, written whole: there is no moment at which they disagree. Nothing in it runs code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import ConfigError, MissingExtra
from secfl.files import write_whole
from secfl.report.model import RoundRow

__all__ = ["FILE", "Checkpoint", "DirectoryJournal", "Journal", "Progress", "load_checkpoint"]

FILE = "checkpoint.safetensors"
"""Name of the file."""
_MOMENT = "moment/"
_STATE = "state"


class Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The records of a checkpoint.

    :param configuration_hash: of the configuration file's text; a run resumes only under its own.
    :param finished_round: last round whose model is in the file; 0 for the initial one. Of buffered rounds the
        number of models made: a session that failed has a number, and no model.
    """

    format: int = 1
    run_id: str
    configuration_hash: str
    started: str
    finished_round: int
    metric: float | None
    rounds: tuple[RoundRow, ...]


class Checkpoint:
    """A run between two attempts.

    :param state: global model, flat float32.
    :param moments: of the server optimiser.
    """

    def __init__(self, progress: Progress, state: npt.NDArray[np.float32], moments: dict[str, Any]) -> None:
        self.progress = progress
        self.state = state
        self.moments = moments


class Journal(Protocol):
    """What a run must remember to go on after a kill."""

    def next_attempt(self, number: int) -> int:
        """First attempt at a round that was never begun."""

    def next_round(self) -> int:
        """First number of a round of which no attempt was ever begun, nor of any after it."""

    def begin(self, number: int, attempt: int) -> None:
        """Remember an attempt before anybody is asked: a killed one is never taken up again, its successor is new."""

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Remember where the run stands."""


class _Begun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last attempt that was begun."""

    round: int
    attempt: int


class DirectoryJournal:
    """A journal in the directory of a run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._begun_path = directory / "attempt.json"

    def next_attempt(self, number: int) -> int:
        """See `Journal.next_attempt`."""
        begun = self._last()
        return begun.attempt + 1 if begun.round == number else 0

    def next_round(self) -> int:
        """See `Journal.next_round`."""
        return self._last().round + 1

    def _last(self) -> _Begun:
        if not self._begun_path.exists():
            return _Begun(0, 0)
        try:
            return msgspec.json.decode(self._begun_path.read_bytes(), type=_Begun)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(str(self._begun_path), f"is damaged: {error}", "a file that secfl wrote") from None

    def begin(self, number: int, attempt: int) -> None:
        """See `Journal.begin`."""
        write_whole(self._begun_path, msgspec.json.encode(_Begun(number, attempt)))

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint, replacing the one before.

        :raises OSError: the disk refused; the one before is as it was.
        """
        save = _safetensors().save
        tensors = {_STATE: np.ascontiguousarray(checkpoint.state)}
        tensors |= {f"{_MOMENT}{name}": np.ascontiguousarray(moment) for name, moment in checkpoint.moments.items()}
        metadata = {"progress": msgspec.json.encode(checkpoint.progress).decode()}
        write_whole(self._directory / FILE, save(tensors, metadata=metadata))


def load_checkpoint(directory: Path) -> Checkpoint:
    """Read the checkpoint of a run's directory.

    :raises ConfigError: there is none, or it is damaged.
    """
    path = directory / FILE
    if not path.is_file():
        raise ConfigError(str(path), "no checkpoint", "the directory of a run that had begun")
    numpy_format = _safetensors()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        tensors = numpy_format.load(path.read_bytes())
        progress = msgspec.json.decode(metadata.get("progress", ""), type=Progress)
        state = tensors.pop(_STATE)
    except (SafetensorError, msgspec.DecodeError, RecursionError, KeyError) as error:
        raise ConfigError(str(path), f"is not a checkpoint: {error}", "a file that secfl wrote") from None
    moments = {name.removeprefix(_MOMENT): values for name, values in tensors.items()}
    return Checkpoint(progress, state, moments)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise MissingExtra("checkpoints", "train") from error
    return safetensors.numpy
