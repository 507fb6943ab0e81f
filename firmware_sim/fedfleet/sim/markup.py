"""The HTML that pages share: a template of theirs, their style, tables and lists. They need no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files as resources
from string import Template

ROOM = "fedfleet.sim"


def template(name: str) -> Template:
    """Return the template of that name."""
    return Template(resources(ROOM).joinpath(name).read_text("utf-8"))


def style() -> str:
    """Return what all pages look like."""
    return resources(ROOM).joinpath("page.css").read_text("utf-8")


def grid(titles: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[str]) -> str:
    """An HTML table whose first column heads its rows; the columns in `numeric` are set flush right."""
    kinds = [' class="n"' if title in numeric else "" for title in titles]
    head = "".join(f'<th scope="col"{kind}>{escape(title)}</th>' for kind, title in zip(kinds, titles, strict=True))
    body = []
    for row in rows:
        first, *rest = (escape(cell) for cell in row)
        tail = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], rest, strict=True))
        body.append(f'<tr><th scope="row"{kinds[0]}>{first}</th>{tail}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(body) + "\n</tbody></table>"


def pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and what they are."""
    rows = "\n".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in pairs)
    return f"<dl>\n{rows}\n</dl>" if rows else "<p>none recorded</p>"
