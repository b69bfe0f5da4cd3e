"""Reads a page as a browser does: its elements, its texts and its tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


@dataclass
class Element:
    """An element with its attributes, its parts, and the elements around it."""

    tag: str
    attributes: dict[str, str]
    parts: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All texts in it, with single blanks."""
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> list[str]:
        return [t for p in self.parts for t in ([p] if isinstance(p, str) else [*p._texts(), " "])]

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """Find the elements of a tag with these attributes."""
        found = [e for p in self.parts if isinstance(p, Element) for e in p.all(tag, **attributes)]
        fits = attributes.items() <= self.attributes.items()
        return [self, *found] if tag in {"", self.tag} and fits else found

    def one(self, tag: str = "", **attributes: str) -> Element:
        """Find the only such element."""
        (found,) = self.all(tag, **attributes)
        return found

    def section(self, identifier: str) -> Element:
        """Find the section with the heading of this id."""
        return self.one("section", **{"aria-labelledby": identifier})

    def rows(self) -> list[list[str]]:
        """Read the cells of the only table, without its head."""
        cells = {"td", "th"}
        return [
            [cell.text for cell in row.parts if isinstance(cell, Element) and cell.tag in cells]
            for row in self.one("tbody").all("tr")
        ]

    def facts(self) -> dict[str, str]:
        """Read the lists of terms and their descriptions."""
        terms, descriptions = self.all("dt"), self.all("dd")
        return {t.text: d.text for t, d in zip(terms, descriptions, strict=True)}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].parts.append(made)
        if tag not in _VOID:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        closed = self.open.pop()
        assert closed.tag == tag, f"</{tag}> closes <{closed.tag}>"

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def read_page(html: str) -> Element:
    """Read a page; each element has to be closed where it belongs."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root]
    return reader.root
