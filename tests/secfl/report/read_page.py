"""A page as its reader gets it: elements, texts, exact numbers, tables."""

from __future__ import annotations

from html.parser import HTMLParser

BLOCKS = {"dt", "dd", "td", "th", "div", "p", "li", "h1", "h2", "h3", "caption", "summary", "title", "desc", "text"}
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Parse strictly: every element is closed, in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.numbers: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.values: list[list[list[list[str]]]] = []
        self.declarations: list[str] = []
        self._open: list[str] = []
        self._sections: list[str] = [""]
        self._value: str | None = None
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_decl(self, decl: str) -> None:
        self.declarations.append(decl)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), (tag, attrs)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "section":
            self._sections.append(attributes.get("id") or "")
        if tag in BLOCKS:
            self.texts.append((self._sections[-1], " "))
        if tag == "table":
            self.tables.append([])
            self.values.append([])
        if tag == "tr":
            self.tables[-1].append([])
            self.values[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")
            self.values[-1][-1].append([])
        if tag == "data":
            self._value = attributes["value"]
            if self._cell():
                self.values[-1][-1][-1].append(attributes["value"])
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self._open.pop() == tag, (tag, self._open, self.getpos())
        if tag == "section":
            self._sections.pop()
        if tag == "data":
            self._value = None

    def handle_data(self, data):
        if self._open and self._open[-1] == "style":
            return
        self.texts.append((self._sections[-1], data))
        if self._value is not None:
            self.numbers.append((self._sections[-1], self._value, data))
        if self._cell():
            self.tables[-1][-1][-1] += data

    def _cell(self) -> bool:
        return "td" in self._open or "th" in self._open

    def text(self, section: str | None = None) -> str:
        """All text, spaces merged; of one section, or of the whole page."""
        return " ".join("".join(data for where, data in self.texts if section in (None, where)).split())

    def table(self, *heads: str) -> tuple[list[list[str]], list[list[list[str]]]]:
        """Rows below the head, of the one table whose head contains these texts: as shown, and the exact numbers."""
        found = [
            (shown[1:], exact[1:])
            for shown, exact in zip(self.tables, self.values, strict=True)
            if all(head in shown[0] for head in heads)
        ]
        assert len(found) == 1, (heads, [shown[0] for shown in self.tables])
        rows, exact = found[0]
        return [[" ".join(cell.split()) for cell in row] for row in rows], exact
