"""The page in headless Chromium: it is painted, complains of nothing, and is parsed as it was written."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib import image
from read_page import Page
from sample_run import halted_report, plain_report, sample_report

from secfl.report import write_report

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> str:
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is not on the PATH; continuous integration must have it")
        pytest.skip("chromium is not on the PATH: the page was not looked at in a browser")
    return program


def run(chromium, tmp_path, page, *options):
    command = [chromium, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def screenshot(chromium, tmp_path, page, name, *options):
    picture = tmp_path / f"{name}.png"
    run(chromium, tmp_path, page, "--window-size=1180,1500", f"--screenshot={picture}", *options)
    return image.imread(picture)[:, :, :3]


def test_page_is_painted_in_light_and_in_dark(chromium, tmp_path):
    page = write_report(sample_report(), tmp_path)
    light = screenshot(chromium, tmp_path, page, "light")
    dark = screenshot(chromium, tmp_path, page, "dark", "--blink-settings=preferredColorScheme=0")
    assert light.shape == dark.shape == (1500, 1180, 3)
    assert light[2, 2].min() > 0.9
    assert dark[2, 2].max() < 0.15
    for picture in (light, dark):
        strips = np.array_split(picture.mean(axis=2), 10)
        assert all(strip.std() > 0.02 for strip in strips)  # something stands in every tenth of it


def test_page_prints_in_black_on_white_with_what_is_folded_on_screen(chromium, tmp_path):
    pdftotext = shutil.which("pdftotext")
    if pdftotext is None:
        pytest.skip("pdftotext is not on the PATH: the print was not read")
    page = write_report(sample_report(), tmp_path)
    pdf = tmp_path / "report.pdf"
    run(chromium, tmp_path, page, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    text = subprocess.run([pdftotext, pdf, "-"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "What is promised, and against whom" in text
    assert "epsilon spent" in text  # the text of a figure is text
    assert sample_report().silos[0].ledger_head[:16] in text


@pytest.mark.parametrize("build", [sample_report, plain_report, halted_report])
def test_browser_reads_the_page_as_written_and_complains_of_nothing(chromium, tmp_path, build):
    page = write_report(build(), tmp_path)
    done = run(chromium, tmp_path, page, "--dump-dom", "--enable-logging=stderr")
    assert "CONSOLE" not in done.stderr
    assert "Refused to" not in done.stderr
    written, parsed = Page(page.read_text("utf-8")), Page(done.stdout)
    # A table cell out of place, or an element closed too late, would be moved by the browser.
    assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in written.tags]
    assert parsed.numbers == written.numbers
    assert parsed.text() == written.text()
