"""Runs one example of each privacy mode and writes its report to docs/examples: ``make report-examples``.

``python docs/_build/report_examples.py [NAME ...]`` for some of them; ``NAME=RUN`` takes a run that is there already.
Each is verified before it is written. Heart keeps everything that `secfl report verify` needs; of the larger ones the
JSON is compressed and their ledgers, several MB, are left out.
"""

from __future__ import annotations

import gzip
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from secfl.config import parse_config
from secfl.federation.session import simulate
from secfl.federation.verification import verify_report
from secfl.report import write_report

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "docs" / "examples"
RECORDS = ("config.toml", "roster.toml", "events.jsonl", "checkpoint.safetensors", "model.safetensors")
CHROMIUM = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
_CLIENTS = 60


def heart(text: str) -> str:
    """As it is, with budget to spare, a dropout before and a reply lost after a silo was charged."""
    text = text.replace("delta = 1e-5\n", "delta = 1e-5\nspare_rounds = 6\n")
    for party, number, kind in (("va", 4, "drop"), ("hungarian", 7, "lose_reply")):
        text += (
            f'\n[[simulation.incidents]]\nparty = "{party}"\nphase = "MaskedInput"\nround = {number}\nkind = "{kind}"\n'
        )
    return text


def digits(text: str) -> str:
    """As it is."""
    return text


def fashion(text: str) -> str:
    """With sixty of its five hundred clients and eight of its twenty rounds: a report of a size to be read."""
    names = re.findall(r'"(client-\d+)", nominal_size', text)[:_CLIENTS]
    silos = "".join(f'  {{ name = "{name}", nominal_size = 120 }},\n' for name in names)
    text = re.sub(r"silo = \[\n.*?\n\]\n", f"silo = [\n{silos}]\n", text, count=1, flags=re.DOTALL)
    text = text.replace("rounds = 20", "rounds = 8").replace("minimum_contributors = 450", "minimum_contributors = 54")
    for name, number in (("client-020", 2), ("client-021", 2), ("client-022", 2), ("client-033", 5)):
        text += f'\n[[simulation.incidents]]\nparty = "{name}"\nphase = "Contribution"\nround = {number}\n'
    return text.replace("# Five hundred clients; each takes", "# Sixty clients; each takes")


EXAMPLES: dict[str, Callable[[str], str]] = {"heart": heart, "digits": digits, "fashion": fashion}


def run(name: str, output: Path) -> Path:
    """Directory of a fresh run."""
    folder = ROOT / "examples" / name
    text = EXAMPLES[name]((folder / "config.toml").read_text())
    finished = simulate(parse_config(text), text, folder, output=output)
    write_report(finished.report, finished.directory)
    return finished.directory


def publish(name: str, directory: Path) -> None:
    """Verify a run's report and put it into the documentation."""
    verify_report(directory / "report.json")
    target = TARGET / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copy(directory / "report.html", target)
    if name == "heart":
        for file in ("report.json", *RECORDS):
            shutil.copy(directory / file, target)
        for ledger in sorted((directory / "ledgers").glob("*/*.ledger")):
            place = target / "ledgers" / ledger.parent.name
            place.mkdir(parents=True)
            place.joinpath(ledger.name).write_bytes(ledger.read_bytes())
        screenshot(target)
    else:
        (target / "report.json.gz").write_bytes(gzip.compress((directory / "report.json").read_bytes(), mtime=0))


def screenshot(target: Path) -> None:
    """Picture of the page's first screen, where there is a browser."""
    program = shutil.which("chromium")
    if program is None:
        return
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=list(CHROMIUM))
        page = browser.new_page(viewport={"width": 1100, "height": 1250})
        page.goto((target / "report.html").as_uri())
        Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(48).save(target / "light.png", optimize=True)
        browser.close()


def main(arguments: list[str]) -> None:
    """Make those that are named, or all."""
    with tempfile.TemporaryDirectory(prefix="secfl-examples-") as work:
        for argument in arguments or list(EXAMPLES):
            name, _, there = argument.partition("=")
            publish(name, Path(there) if there else run(name, Path(work)))


if __name__ == "__main__":
    main(sys.argv[1:])
