"""Start one server and four hospitals as processes of their own, wait for the sum, compare, stop everything.

python run.py                      all four contribute
python run.py --drop               one is killed (SIGKILL) when the server has asked for its counts
python run.py --protocol oneshot   another protocol; or ckks, with a process more: the key holder
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from agreed import LIKE, PARTIES

from protocols import Member, Roster
from secfl.registry import PROTOCOLS, offered

HERE = Path(__file__).resolve().parent
DROPPED = "cork"


def start(stack: ExitStack, program: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start a process that ends with the stack, whatever happens."""
    command = [sys.executable, str(HERE / program), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stack.callback(stop, process)
    return process


def stop(process: subprocess.Popen[str]) -> None:
    """End a process: politely, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def prepare(home: Path, everybody: tuple[str, ...], protocol: str) -> dict[str, dict[str, np.ndarray]]:
    """A directory and keys for everybody, counts for each hospital; the roster of the public keys for all."""
    generator = np.random.default_rng(7)
    values, members = {}, []
    (home / "server").mkdir()
    for party in everybody:
        (home / party).mkdir(mode=0o700)
        if party in PARTIES:
            values[party] = {
                name: generator.integers(0, 100_000, like.shape, dtype=np.int64) for name, like in LIKE.items()
            }
            np.savez(home / party / "counts.npz", **values[party])
        command = [sys.executable, str(HERE / "party.py"), "keygen", str(home / party), party, "--protocol", protocol]
        public = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        members.append(Member(party, *map(bytes.fromhex, public.rstrip("\n").split(" "))))
        if (home / party / "public_context.bin").exists():
            shutil.copy(home / party / "public_context.bin", home / "server")
    roster = Roster(members).to_bytes()
    for name in (*everybody, "server"):
        (home / name / "roster.bin").write_bytes(roster)
    return values


def wait_for_port(home: Path, server: subprocess.Popen[str], deadline: float) -> str:
    """The port that the server writes to a file."""
    path = home / "server" / "port"
    while not path.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the server did not start")
        time.sleep(0.05)
    return path.read_text()


def demonstrate(home: Path, protocol: str, *, drop: bool, seconds: float) -> None:
    """Run one session.

    :raises RuntimeError: a process failed or the sum is not the plain sum.
    """
    cast = offered(protocol).cast(PARTIES)
    everybody = (*PARTIES, *cast.offices)
    values = prepare(home, everybody, protocol)
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:
        server = start(stack, "server.py", home / "server", "--protocol", protocol)
        port = wait_for_port(home, server, deadline)
        parties = {}
        for name in everybody:
            options = ["--protocol", protocol, *(["--hold"] if drop and name == DROPPED else [])]
            parties[name] = start(stack, "party.py", "join", home / name, name, port, *options)
        if drop:
            line = parties[DROPPED].stdout.readline() if parties[DROPPED].stdout else ""
            if line != "contributing\n":
                raise RuntimeError(f"{DROPPED} was not asked for its counts")
            parties[DROPPED].kill()
            print(f"killed {DROPPED} while it was asked for its counts", flush=True)
        output, _ = server.communicate(timeout=deadline - time.monotonic())
        print(output, end="")
        if server.returncode != 0:
            raise RuntimeError(f"the server ended with {server.returncode}")
        for name, process in parties.items():
            if process.wait(max(0.1, deadline - time.monotonic())) != 0 and not (drop and name == DROPPED):
                raise RuntimeError(f"{name} ended with {process.returncode}")
    compare(home, values, json.loads(output.splitlines()[-1])["contributors"])


def compare(home: Path, values: dict[str, dict[str, np.ndarray]], contributors: list[str]) -> None:
    """Against the plain sum, which only this demonstration can compute: it made the counts itself."""
    with np.load(home / "server" / "sum.npz") as found:
        for name in LIKE:
            plain = np.sum([values[party][name] for party in contributors], axis=0)
            if not np.array_equal(found[name], plain):
                raise RuntimeError(f"{name}: the secure sum is not the plain sum")
    print(f"secure sum over {', '.join(contributors)} equals the plain sum: {', '.join(LIKE)}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drop", action="store_true", help="kill one hospital before it contributes")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="secagg")
    parser.add_argument("--seconds", type=float, default=60.0, help="give up after")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="own-pipeline-") as home:
        demonstrate(Path(home), arguments.protocol, drop=arguments.drop, seconds=arguments.seconds)


if __name__ == "__main__":
    main()
