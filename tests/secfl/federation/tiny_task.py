"""A small real task for tests of runs: a linear model, four silos, records that follow from the silo's name."""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import TensorDataset

from secfl.config import Config, load_config
from secfl.training import Task

FEATURES = 3


def load_data(silo: str, split_seed: int) -> tuple[TensorDataset, TensorDataset]:
    generator = torch.Generator().manual_seed(zlib.crc32(silo.encode()) + split_seed)
    inputs = torch.rand(60, FEATURES, generator=generator)
    targets = (inputs.sum(1) > FEATURES / 2).float()
    return TensorDataset(inputs[:40], targets[:40]), TensorDataset(inputs[40:], targets[40:])


def tiny_task() -> Task:
    return Task(
        name="tiny",
        build=lambda: nn.Linear(FEATURES, 1),
        load=load_data,
        loss=lambda outputs, targets: binary_cross_entropy_with_logits(outputs[:, 0], targets, reduction="none"),
        metric=lambda outputs, targets: float(((outputs[:, 0] > 0) == (targets > 0.5)).float().mean()),
    )


def tiny_config(directory: Path, *, private: bool, **sections: str) -> tuple[Config, str]:
    """A configuration of four silos, three rounds; sections are replaced by TOML text."""
    training = '[training]\nmode = "none"\nsteps_per_round = 2\nlearning_rate = 0.5\nsampling_rate = 0.25\n'
    if private:
        training = training.replace('"none"', '"local-dp-sgd"') + "clip_norm = 1.0\n"
    run = '[run]\nname = "tiny"\nrounds = 3\nseed = 7\n' + ("" if private else "reproducible = true\n")
    parts = {
        "run": run,
        "silos": "\n".join(f'[[silo]]\nname = "{name}"\nnominal_size = 40\n' for name in ("a", "b", "c", "d")),
        "training": training,
        "privacy": "[privacy]\nepsilon = 4.0\ndelta = 1e-5\n" if private else "",
        "ledger": '[ledger]\nkind = "per-run"\n',
        "aggregation": "[aggregation]\nvalue_range = 8.0\n",
        "server": "",
        "evaluation": '[evaluation]\nkind = "benchmark"\nmetric = "accuracy"\n',
        "simulation": "",
    } | sections
    text = "\n".join(parts.values())
    path = directory / "tiny.toml"
    path.write_text(text)
    return load_config(path)
