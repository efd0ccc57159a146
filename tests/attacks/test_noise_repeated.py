"""Noise from a clock or a reseeded process, or the same noise twice: forked and restarted processes never repeat it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from secfl.privacy.discrete_gaussian import DiscreteGaussian
from secfl.training.noise import GridNoise

ROOT = Path(__file__).parents[2]
ONE_PROCESS = """
import os, random, time
import numpy as np
from secfl.privacy.discrete_gaussian import DiscreteGaussian
random.seed(1); np.random.seed(1); time.time = lambda: 1.0
print(DiscreteGaussian(1000.0).sample(64, os.urandom).tobytes().hex())
"""


def reseeded() -> bytes:
    """Noise for a step, in a process that resets every generator and stops its clock."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    return bytes(GridNoise(1.0, 1.0, 64).add(torch.zeros(64), os.urandom).numpy().tobytes())


def test_noise_does_not_repeat_when_every_generator_is_seeded_again_and_the_clock_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.0)
    drawn = [reseeded() for _ in range(20)]
    assert len(set(drawn)) == len(drawn)


def test_two_processes_started_alike_draw_different_noise() -> None:
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", ONE_PROCESS]
    first, second = (
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert len(first) == len(second) == 64 * 16 + 1
    assert first != second


def test_forked_processes_share_no_noise() -> None:
    """After a fork a generator's state is in both processes; the operating system's randomness is not."""
    sampler = DiscreteGaussian(1000.0)
    sampler.sample(10, os.urandom)  # whatever it may keep is there before the fork
    readers = []
    for _ in range(2):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, sampler.sample(64, os.urandom).tobytes())
            os._exit(0)
        os.waitpid(child, 0)
        readers.append(os.read(reader, 512))
        os.close(reader)
        os.close(writer)
    drawn = [*readers, sampler.sample(64, os.urandom).tobytes()]
    assert len(set(drawn)) == 3
    assert all(len(item) == 512 for item in drawn)
