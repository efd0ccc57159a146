"""Every block that the documentation marks as runnable does what the page says it does."""

from __future__ import annotations

import re
from pathlib import Path

import page_runner
import pytest

DONE_ELSEWHERE = {  # what needs a deployment: what the page tells, and the test that does it with real processes
    "docs/how-to/flower-deployment.md": ("secfl run --engine flower", "tests/engines/test_flower_run.py"),
    "docs/how-to/from-secaggplus.md": ("mods=[secagg_mod]", "tests/engines/test_flower_deployment.py"),
}
RUNNABLE = [page for page in page_runner.pages() if any(page_runner.blocks(page))]


def _parameter(page: Path) -> object:
    marks = [pytest.mark.slow, pytest.mark.timeout(1200)] if page_runner.is_slow(page) else []
    return pytest.param(page, id=str(page.relative_to(page_runner.ROOT)), marks=marks)


@pytest.mark.parametrize("page", [_parameter(page) for page in RUNNABLE])
def test_page_does_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page_runner.require("torch", "opacus", "jinja2", "matplotlib", "sklearn")
    monkeypatch.chdir(tmp_path)
    page_runner.PageRunner(page, tmp_path).run()


def test_pages_that_teach_have_runnable_blocks() -> None:
    names = {str(page.relative_to(page_runner.ROOT)) for page in RUNNABLE}
    taught = {str(page.relative_to(page_runner.ROOT)) for page in page_runner.pages() if "how-to" in page.parts}
    assert (taught - set(DONE_ELSEWHERE)) | {"README.md", "docs/tutorial/own-data.md"} <= names
    for page, (command, test) in DONE_ELSEWHERE.items():
        assert command in (page_runner.ROOT / page).read_text(encoding="utf-8")
        assert (page_runner.ROOT / test).is_file()


@pytest.mark.parametrize("page", page_runner.pages(), ids=lambda page: page.name)
def test_every_directive_is_one_that_the_runner_knows(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    written = re.findall(r"<!--.*?-->", text, re.DOTALL)
    # Written by benchmarks/performance_page.py and docs/_build/specification.py, compared by tests of their own.
    written_in = text.count("<!-- table: ") + text.count("<!-- generated: ")
    assert text.count("<!-- end -->") == written_in
    assert len(written) == len(list(page_runner.blocks(page))) + text.count("<!-- slow -->") + 2 * written_in


@pytest.mark.parametrize("page", page_runner.pages(), ids=lambda page: page.name)
def test_python_console_and_configuration_blocks_are_run_or_shown_as_text(page: Path) -> None:
    """A block in one of these languages without a directive would rot unseen."""
    text = page.read_text(encoding="utf-8")
    unmarked = [
        text.count("\n", 0, found.start()) + 1
        for found in re.finditer(r"^```(python|console|toml)\b", text, re.MULTILINE)
        if not re.search(r"^<!-- (run|file|append|output)[^\n]*-->\n\Z", text[: found.start()], re.MULTILINE)
    ]
    assert unmarked == []


def test_block_that_prints_something_else_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- run -->\n```python\nprint(1)\n```\n\n<!-- output -->\n```text\n2\n```\n")
    monkeypatch.setattr(page_runner, "ROOT", tmp_path)
    with pytest.raises(AssertionError, match=r"page\.md:6: the page shows"):
        page_runner.PageRunner(page, tmp_path).run()


def test_command_that_fails_fails_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- run -->\n```console\n$ exit 3\n```\n")
    monkeypatch.setattr(page_runner, "ROOT", tmp_path)
    with pytest.raises(AssertionError, match="ended with 3, not 0"):
        page_runner.PageRunner(page, tmp_path).run()
