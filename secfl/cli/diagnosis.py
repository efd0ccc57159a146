"""What `secfl doctor` looks at: packages, ciphers, the disk under the ledgers, the clock."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal

import msgspec
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

import secfl
from secfl.files import write_new, write_whole

__all__ = ["Finding", "diagnose"]

PACKAGE = "secfl"
DEVELOPMENT = "dev"
SLOW_CIPHER = 500e6
"""Bytes a second; processors with AES instructions do several times as much."""
SLOW_WRITE = 0.1
"""Seconds for one durable write. A round has a handful at each silo."""
CLOCK_SLACK = 2.0
"""Seconds between the clock and the times that the file system gives."""

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_BOUND = re.compile(r"^(>=|<)([0-9.]+)$")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at.

    :param about: ``core``, ``extra NAME``, ``speed``, ``disk`` or ``clock``.
    :param status: only ``failed`` makes the machine unfit; ``missing`` is an extra, ``slow`` a warning.
    :param remedy: what to do; empty if nothing.
    """

    about: str
    name: str
    status: Literal["ok", "missing", "slow", "failed"]
    found: str
    remedy: str = ""


def diagnose(ledgers: Path) -> list[Finding]:
    """Everything, without changing anything that stays.

    :param ledgers: directory where ledgers are to live.
    """
    return [_python(), *_packages(), *_torch(), _cipher(), *_disk(ledgers), _clock(ledgers)]


def _python() -> Finding:
    fit = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} at {sys.executable}"
    remedy = "" if fit else "Python 3.11 or newer"
    return Finding(about="core", name="Python", status="ok" if fit else "failed", found=found, remedy=remedy)


def _packages() -> Iterator[Finding]:
    """Every requirement in the metadata of this package, those of development left out."""
    try:
        requirements = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            about="core",
            name=PACKAGE,
            status="failed",
            found="not installed as a package",
            remedy=f"pip install {PACKAGE}",
        )
        return
    yield Finding(about="core", name=PACKAGE, status="ok", found=secfl.__version__)
    for requirement in requirements:
        wanted, _, marker = requirement.partition(";")
        name, extra = _NAME.match(wanted), _EXTRA.search(marker)
        if name is not None and not (extra and extra[1] == DEVELOPMENT):
            yield _package(name[0], wanted[name.end() :].strip(), extra[1] if extra else None)


def _package(name: str, versions: str, extra: str | None) -> Finding:
    about = f"extra {extra}" if extra else "core"
    remedy = f'pip install "{PACKAGE}[{extra}]"' if extra else f"pip install --upgrade {PACKAGE}"
    unusable: Literal["missing", "failed"] = "missing" if extra else "failed"
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(about=about, name=name, status=unusable, found="not installed", remedy=remedy)
    if not _satisfies(found, versions):
        return Finding(about=about, name=name, status=unusable, found=f"{found}, needed {versions}", remedy=remedy)
    return Finding(about=about, name=name, status="ok", found=found)


def _satisfies(version: str, bounds: str) -> bool:
    """Whether a version is within ``>=`` and ``<`` bounds, the only ones that this package uses."""
    for bound in filter(None, bounds.split(",")):
        parts = _BOUND.match(bound.strip())
        if parts is None:
            continue
        low, high = (_numbers(version), _numbers(parts[2]))
        length = max(len(low), len(high))
        low, high = (numbers + [0] * (length - len(numbers)) for numbers in (low, high))
        if (low < high) is (parts[1] == ">="):
            return False
    return True


def _numbers(version: str) -> list[int]:
    release = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return [int(part) for part in release[0].split(".")] if release else []


def _torch() -> Iterator[Finding]:
    if find_spec("torch") is None:
        return
    import torch

    found = f"{torch.get_num_threads()} threads, {os.cpu_count()} processors"
    yield Finding(about="speed", name="torch", status="ok", found=found)


def _cipher() -> Finding:
    """AES-256-CTR as masks are expanded: in pieces of 256 KiB."""
    stream = Cipher(algorithms.AES256(bytes(32)), modes.CTR(bytes(16))).encryptor()
    piece, out = bytes(1 << 18), bytearray((1 << 18) + 15)
    start, count = time.perf_counter(), 0
    while count < 16 or time.perf_counter() - start < 0.05:
        stream.update_into(piece, out)
        count += 1
    speed = count * len(piece) / (time.perf_counter() - start)
    found = f"{speed / 1e6:,.0f} MB/s, {backend.openssl_version_text()}"
    remedy = "" if speed >= SLOW_CIPHER else "a processor with AES instructions, and an OpenSSL that uses them"
    return Finding(about="speed", name="AES-256-CTR", status="slow" if remedy else "ok", found=found, remedy=remedy)


def _disk(ledgers: Path) -> Iterator[Finding]:
    """What ledgers and keys need of a directory, tried in one of its own that is removed again."""
    at = _nearest(ledgers)
    for name, check in (("durable writes", _try_writing), ("file locks", _try_locking)):
        try:
            with _scratch(at) as scratch:
                slow = check(scratch)
        except OSError as error:
            remedy = "a local disk on which this user may write"
            yield Finding(about="disk", name=name, status="failed", found=f"{at}: {error}", remedy=remedy)
        else:
            yield Finding(about="disk", name=name, status="slow" if slow else "ok", found=f"{at}{slow}")


def _nearest(path: Path) -> Path:
    path = path.resolve()
    return next(parent for parent in (path, *path.parents) if parent.exists())


@contextmanager
def _scratch(at: Path) -> Iterator[Path]:
    scratch = Path(mkdtemp(prefix=".secfl-doctor-", dir=at))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)


def _try_writing(scratch: Path) -> str:
    start = time.perf_counter()
    write_new(scratch / "file", b"old")
    write_whole(scratch / "file", b"new")
    seconds = (time.perf_counter() - start) / 2
    if (scratch / "file").read_bytes() != b"new":
        raise OSError("a file does not hold what was written")
    return f": {seconds * 1000:.0f} ms for each" if seconds > SLOW_WRITE else ""


def _try_locking(scratch: Path) -> str:
    first: BaseFileLock = FileLock(scratch / "lock", thread_local=False)
    second: BaseFileLock = FileLock(scratch / "lock", thread_local=False)
    with first.acquire(timeout=0):
        if isinstance(first, SoftFileLock):  # what filelock falls back to: it outlives a killed process
            raise OSError("this file system has no locks")
        try:
            second.acquire(timeout=0)
        except Timeout:
            return ""
        second.release()
        raise OSError("a lock was given twice")


def _clock(ledgers: Path) -> Finding:
    """Against the time of a file just written, and against that of this package's own files."""
    at = _nearest(ledgers)
    now, newest = time.time(), Path(secfl.__file__).stat().st_mtime
    try:
        with _scratch(at) as scratch:
            difference = scratch.stat().st_mtime - now
    except OSError:
        difference = 0.0  # said by the findings about the disk
    utc = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(now))}"
    if now < newest - CLOCK_SLACK:
        problem = "before this package was written"
    elif abs(difference) > CLOCK_SLACK:
        problem = f"{abs(difference):.0f} s from that of the file system at {at}"
    else:
        return Finding(about="clock", name="time", status="ok", found=utc)
    return Finding(about="clock", name="time", status="failed", found=f"{utc}, {problem}", remedy="set the clock (NTP)")
