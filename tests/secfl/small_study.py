"""A study small enough to run in a test: four silos, forty synthetic records each, a model of four parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secfl.config import load_config
from secfl.engines import EmbeddedEngine, Incident
from secfl.engines.base import Engine
from secfl.federation.checkpoint import Checkpoint
from secfl.federation.run import RunResult, first_checkpoint, run_rounds
from secfl.federation.setup import Parties, Plan, plan_run, set_up_parties
from secfl.privacy.ledger import Ledger

SILOS = ("east", "north", "south", "west")
PHASES = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")
RECORDS = 40
TIGHT = 2.2
"""An epsilon that admits one round of the study's noise and not two."""

MODEL = """
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import TensorDataset


def build_model():
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    return model


def load_data(silo, split_seed):
    generator = torch.Generator().manual_seed(sum(silo.encode()))
    inputs = torch.randn(40, 3, generator=generator)
    targets = (inputs @ torch.tensor([1.0, -1.0, 0.5]) > 0).float()
    test = TensorDataset(inputs[:10], targets[:10])
    if silo == "hollow":
        inputs, targets = inputs[:0], targets[:0]
    if silo == "uniform":
        targets = torch.ones(40)
    if silo == "broken":
        inputs = inputs * float("nan")
    return TensorDataset(inputs, targets), test


def loss(outputs, targets):
    return binary_cross_entropy_with_logits(outputs, targets, reduction="none")


def metric(outputs, targets):
    return float(((outputs > 0) == (targets > 0)).double().mean())
"""


def study_text(
    silos: tuple[str, ...] = SILOS,
    *,
    private: bool = False,
    rounds: int = 2,
    ledger: str = "per-run",
    epsilon: float = 8.0,
    run: str = "",
    training: str = "",
    aggregation: str = "",
    rest: str = "",
) -> str:
    """A configuration file; the string arguments are lines for its sections."""
    parts = [f'[run]\nname = "study"\nrounds = {rounds}\n{run}']
    parts += [f'[[silo]]\nname = "{silo}"\nnominal_size = {RECORDS}' for silo in silos]
    if private:
        parts.append('[training]\nmode = "local-dp-sgd"\nclip_norm = 1.0\nnoise_multiplier = 2.0')
        parts[-1] += f"\nsteps_per_round = 2\nlearning_rate = 0.5\nsampling_rate = 0.5\n{training}"
        parts.append(f"[privacy]\nepsilon = {epsilon}\ndelta = 1e-5")
    else:
        parts.append('[training]\nmode = "none"')
        parts[-1] += f"\nsteps_per_round = 2\nlearning_rate = 0.5\nsampling_rate = 0.5\n{training}"
    parts.append(f'[ledger]\nkind = "{ledger}"\nsource = "synthetic"')
    parts.append(f"[aggregation]\nvalue_range = 4.0\n{aggregation}")
    parts.append('[evaluation]\nkind = "benchmark"\nmetric = "accuracy"')
    return "\n\n".join([*parts, rest]) + "\n"


def noised_text(mode: str, silos: tuple[str, ...] = SILOS, **sections: Any) -> str:
    """The same with noise in sums: ``distributed-dp-sgd`` or ``client-level``."""
    text = study_text(silos, private=True, **sections)
    text = text.replace('mode = "local-dp-sgd"', f'mode = "{mode}"').replace("value_range = 4.0\n", "")
    if mode == "client-level":
        return text.replace("[privacy]", '[privacy]\nunit = "client"')
    return text.replace("steps_per_round = 2", "steps_per_round = 1")


def write_study(directory: Path, text: str, model: str = MODEL) -> Path:
    """Write the files of a study; return the configuration's path."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.py").write_text(model)
    path = directory / "config.toml"
    path.write_text(text)
    return path


class MemoryJournal:
    """Remembers a run in memory."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []
        self.last: Checkpoint | None = None

    def next_attempt(self, number: int) -> int:
        return max((attempt + 1 for round_number, attempt in self.begun if round_number == number), default=0)

    def next_round(self) -> int:
        return max((number for number, _ in self.begun), default=0) + 1

    def begin(self, number: int, attempt: int) -> None:
        self.begun.append((number, attempt))

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        self.last = checkpoint


@dataclass
class Study:
    """A study with its parties open."""

    plan: Plan
    parties: Parties
    directory: Path

    def engine(self, *incidents: Incident, **options: Any) -> EmbeddedEngine:
        return EmbeddedEngine(self.parties.silos, incidents=incidents, **options)

    def run(self, engine: Engine, run_id: str = "run-1") -> RunResult:
        start = first_checkpoint(self.plan, run_id, "", None)
        return run_rounds(self.plan, self.parties, engine, start, MemoryJournal())

    def states(self, silo: str) -> dict[str, str]:
        """Release (round/attempt) to where it stands, in the open ledger."""
        return states_in(self.parties.ledgers[silo])

    def ledger_path(self, silo: str) -> Path:
        return self.directory / "ledgers" / silo / "records.ledger"

    def reopened(self, silo: str) -> dict[str, str]:
        """The same after the silo's process ended and another one opened the ledger."""
        self.parties.ledgers[silo].close()
        key = self.parties.silos[silo].identity.signing_key
        with Ledger.open(self.ledger_path(silo), key) as ledger:
            return states_in(ledger)


def states_in(ledger: Ledger) -> dict[str, str]:
    return {
        f"{release.reservation.round}/{release.reservation.attempt}": release.state.value
        for release in ledger.releases()
    }


@contextmanager
def open_study(directory: Path, text: str) -> Iterator[Study]:
    """Everything that `secfl run` sets up before the first round."""
    config, _ = load_config(write_study(directory, text))
    plan = plan_run(config, directory)
    with set_up_parties(plan, directory) as parties:
        yield Study(plan, parties, directory)
