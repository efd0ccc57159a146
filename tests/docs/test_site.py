"""The site: built strictly, complete, self-contained, its generated pages as the code is now."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import page_runner
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LOADED = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    page_runner.require("mkdocs", "material", "mkdocstrings")
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


class _Page(HTMLParser):
    """Anchors, links and loaded resources of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            if (tag, name) == ("a", "href"):
                self.links.append(value)
            elif (tag, name) in LOADED:
                self.loaded.append(value)


@pytest.fixture(scope="module")
def html(site: Path) -> dict[Path, _Page]:
    """Every page of the site but the one for missing pages, whose links are relative to a server."""
    return {path: _Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_internal_link_and_anchor_leads_somewhere(site: Path, html: dict[Path, _Page]) -> None:
    broken = []
    for path, page in html.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in html and anchor not in html[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_no_page_loads_anything_from_another_host(site: Path, html: dict[Path, _Page]) -> None:
    foreign = [
        f"{path.relative_to(site)}: {link}"
        for path, page in html.items()
        for link in page.loaded
        if urlsplit(link).scheme not in ("", "data") or urlsplit(link).netloc
    ]
    styles = [
        f"{path.relative_to(site)}: {found}"
        for path in site.rglob("*.css")
        for found in re.findall(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")]+)", path.read_text(encoding="utf-8"))
    ]
    assert (foreign, styles) == ([], [])


def test_external_links_are_https(html: dict[Path, _Page]) -> None:
    schemes = {urlsplit(link).scheme for page in html.values() for link in page.links}
    assert schemes <= {"", "https"}


def _navigation() -> list[str]:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    return re.findall(r"(\S+\.md)(?: #.*)?$", text, re.MULTILINE)


def test_navigation_and_pages_are_the_same_set() -> None:
    listed = _navigation()
    written = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    records = {f"decisions/{path.name}" for path in (DOCS / "decisions").glob("[0-9]*.md")}  # put there by a hook
    assert len(set(listed)) == len(listed)
    assert set(listed) == written - records


def test_every_decision_record_is_in_the_built_navigation(html: dict[Path, _Page], site: Path) -> None:
    links = set(html[site / "index.html"].links)
    records = sorted(path.stem for path in (DOCS / "decisions").glob("[0-9]*.md"))
    assert [name for name in records if f"decisions/{name}.html" not in links] == []


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).is_file()] == []


def test_pages_never_say_what_no_run_can_promise() -> None:
    forbidden = re.compile(r"\banonym|person-level|proven by audit", re.IGNORECASE)
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    assert [str(path) for path in pages if forbidden.search(path.read_text(encoding="utf-8"))] == []


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The script that writes the configuration's page."""
    path = DOCS / "_build" / "configuration.py"
    spec = importlib.util.spec_from_file_location("configuration_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_page_is_what_the_schema_gives(generator: ModuleType) -> None:
    shown = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    assert shown == generator.page(), "run: python docs/_build/configuration.py"


def test_every_configuration_key_has_a_meaning(generator: ModuleType) -> None:
    assert [line for line in generator.page().splitlines() if re.search(r"\|\s*\|$", line)] == []


def test_errors_page_names_every_error_exit_code_and_fault_reason() -> None:
    from protocols import errors
    from secfl.cli.errors import EXIT_CODES, HALTED

    text = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    shown = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| `(\w+)`", text, re.MULTILINE)}
    assert shown == {kind.__name__: code for kind, code in EXIT_CODES.items()}
    assert f"| {HALTED} |" in text
    assert [name for name in errors.__all__ if f"`{name}`" not in text] == []
    assert [reason.name for reason in errors.FaultReason if f"`{reason.name}`" not in text] == []
