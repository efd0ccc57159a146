"""The pages in headless Chromium: painted, quiet, without a request, readable by keyboard, on paper and by everybody.

Validity is checked twice: html5lib's parser tells errors of the markup, and the browser must build the very elements
that were written.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import html5lib
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from html5lib.html5parser import ParseError
from matplotlib import image
from read_page import Page
from sample_run import halted_report, plain_report, sample_report

from secfl.federation.local_report import write_local_report
from secfl.report import render_html, write_report
from secfl.report.side_by_side import render_comparison

BUILDERS = {"private": sample_report, "plain": plain_report, "halted": halted_report}
WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, private_run: Path, plain_run: Path) -> dict[str, Path]:
    """Every kind of page, by name; the first four are of real runs."""
    home = tmp_path_factory.mktemp("pages")
    found = {"run": private_run / "report.html", "run without privacy": plain_run / "report.html"}
    found["silo"] = write_local_report(private_run, "west", home)
    found["comparison"] = home / "comparison.html"
    found["comparison"].write_text(render_comparison(sample_report(), halted_report()))
    found["halted"] = write_report(halted_report(), home)
    return found


KINDS = ["run", "run without privacy", "silo", "comparison", "halted"]


@pytest.fixture
def opened(browser, pages):
    """Opens a page and sees to it that it was quiet and asked for nothing."""
    contexts = []

    def open_page(kind, *, scheme="light", width=1180):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        page = context.new_page()
        noise: list[str] = []
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda request: noise.append(request.url))
        page.goto(pages[kind].as_uri())
        contexts.append((context, page, noise))
        return page

    yield open_page
    for context, page, noise in contexts:
        assert noise == [page.url]  # the page itself, and nothing else
        context.close()


def picture(page):
    return image.imread(io.BytesIO(page.screenshot()))[:, :, :3]


def test_the_checker_of_accessibility_does_find_faults(opened):
    page = opened("comparison")
    page.evaluate(
        "document.querySelector('svg').remove(); document.querySelector('main').innerHTML += '<img src=\"\">'"
    )
    page.evaluate("document.querySelector('h1').style.color = '#d0d0d0'")
    found = {violation["id"] for violation in Axe().run(page, options=WCAG).response["violations"]}
    assert {"image-alt", "color-contrast"} <= found


@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_page_is_painted_in_light_and_in_dark(opened, kind):
    light, dark = picture(opened(kind)), picture(opened(kind, scheme="dark"))
    assert light[2, 2].min() > 0.9
    assert dark[2, 2].max() < 0.15
    for shot in (light, dark):
        assert all(strip.std() > 0.02 for strip in np.array_split(shot.mean(axis=2), 6))


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [("run", "light"), ("run", "dark"), ("run without privacy", "dark"), ("silo", "light"), ("comparison", "dark")],
)
def test_nobody_is_shut_out(opened, kind, scheme):
    """axe-core's rules for WCAG 2.2 A and AA and its best practices; nothing folded is left out."""
    page = opened(kind, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    result = Axe().run(page, options=WCAG)
    assert result.violations_count == 0, result.generate_report()


@pytest.mark.parametrize("kind", ["run", "silo"])
def test_nothing_is_wider_than_a_telephone(opened, kind):
    page = opened(kind, width=360)
    page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_everything_is_reached_by_keyboard(opened):
    """Tab visits the skip link first, every link and every fold in the order of the page; Enter unfolds."""
    page = opened("run")
    wanted = page.evaluate(
        "[...document.querySelectorAll('a[href], summary, [tabindex=\"0\"]')].map(e => e.textContent)"
    )
    visited = []
    for _ in wanted:
        page.keyboard.press("Tab")
        visited.append(page.evaluate("document.activeElement.textContent"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", visited[-1]
    assert visited == wanted
    assert visited[0] == "Skip to the report"
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open") is True


def test_page_prints_in_black_on_white_with_what_is_folded_on_screen(opened, private_run, tmp_path):
    pdftotext = shutil.which("pdftotext")
    if pdftotext is None:
        pytest.skip("pdftotext is not on the PATH: the print was not read")
    page = opened("run", scheme="dark")
    pdf = tmp_path / "report.pdf"
    page.pdf(path=pdf, prefer_css_page_size=True)
    done = subprocess.run([pdftotext, "-layout", pdf, "-"], capture_output=True, text=True, check=True, timeout=60)
    sheets = done.stdout.split("\f")
    text = done.stdout
    assert "What is promised, and against whom" in sheets[0]
    assert "epsilon spent" in text  # the text of a figure is text
    assert "Ed25519" in text
    # What is signed comes before the records, which begin a sheet of their own.
    records = next(number for number, sheet in enumerate(sheets) if sheet.strip().startswith("Records"))
    assert any("Signature, date" in sheet for sheet in sheets[:records])
    assert not any("Signature, date" in sheet for sheet in sheets[records:])
    ink = page.evaluate("(matchMedia('print'), getComputedStyle(document.documentElement).getPropertyValue('--ink'))")
    assert ink.strip() == "#e4e7eb"  # on the dark screen
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("kind", KINDS)
def test_browser_reads_the_page_as_written(opened, pages, kind):
    written, parsed = Page(pages[kind].read_text("utf-8")), Page(opened(kind).content())
    # A table cell out of place, or an element closed too late, would be moved by the browser.
    assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in written.tags]
    assert parsed.numbers == written.numbers
    assert parsed.text() == written.text()


@pytest.mark.parametrize("build", BUILDERS.values())
def test_markup_is_html_without_an_error(build):
    html5lib.HTMLParser(strict=True).parse(render_html(build()))


def test_the_strict_parser_does_find_errors():
    with pytest.raises(ParseError):
        html5lib.HTMLParser(strict=True).parse("<!DOCTYPE html><html lang=en><title>x</title><p><table><p></table>")


def test_markup_of_the_other_pages_is_html_without_an_error(pages):
    for kind in KINDS:
        html5lib.HTMLParser(strict=True).parse(pages[kind].read_text("utf-8"))
