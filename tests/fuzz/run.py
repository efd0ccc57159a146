"""Coverage-guided fuzzing of one target: ``python -m tests.fuzz.run TARGET [--seconds N] [--runs N]``.

Findings are written as files beside the corpus of the target; a finding that was fixed becomes part of the corpus.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["protocols", "secfl"]):
    from tests.fuzz.targets import TARGETS, target

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Run libFuzzer until the time or the number of executions is up, or something is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="executions; -1 for as many as the time allows")
    parser.add_argument("--found", type=Path, help="directory where inputs that reach new code are kept")
    arguments = parser.parse_args()
    chosen = target(arguments.target)
    found = arguments.found or CORPUS.parent / ".found" / arguments.target
    found.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(chosen.seeds()):
        (found / f"seed-{number:03}").write_bytes(seed)

    longest = max(65536, *(2 * len(seed) for seed in chosen.seeds()))

    def mutate(raw: bytes, size: int, seed: int) -> bytes:
        return chosen.mutate(raw, size, seed, atheris.Mutate)

    options = [
        sys.argv[0],
        f"-max_total_time={arguments.seconds}",
        f"-runs={arguments.runs}",
        f"-max_len={longest}",
        "-rss_limit_mb=4096",
        "-timeout=20",
        "-print_final_stats=1",
        f"-artifact_prefix={found.parent}/finding-{arguments.target}-",
        str(found),
        str(CORPUS / arguments.target),
    ]
    (CORPUS / arguments.target).mkdir(parents=True, exist_ok=True)
    atheris.Setup(options, chosen.run, custom_mutator=mutate)
    print(f"fuzzing {arguments.target} from {len(chosen.seeds())} genuine inputs", flush=True)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
