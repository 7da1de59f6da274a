"""The directive ``settings``: a table of an algorithm's options, read from its settings.

An option is declared once, with its default and its docstring, in the dataclass of its
algorithm; pages say ``{settings} alita``.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

# A role or a literal of reStructuredText.
_CODE = re.compile(r"(:\w+:)?`+([^`]+)`+")


def default_of(field: dataclasses.Field) -> str:
    """The default as Python writes it."""
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "required"


class SettingsTable(Directive):
    """A table with the columns option, default and meaning."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table."""
        from torchrl_alita._settings import field_docs
        from torchrl_alita.algorithms.registry import ALGORITHMS

        settings = ALGORITHMS[self.arguments[0]].Settings
        docs = field_docs(settings)
        rows = [
            (field.name, default_of(field), docs.get(field.name, ""))
            for field in dataclasses.fields(settings)
            if field.init
        ]
        return [_table(("option", "default", "meaning"), rows)]


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> nodes.table:
    group = nodes.tgroup(cols=len(titles))
    group += [nodes.colspec(colwidth=width) for width in (20, 20, 60)]
    group += nodes.thead("", _row(titles, code=()))
    group += nodes.tbody("", *(_row(row, code=(0, 1)) for row in rows))
    return nodes.table("", group, classes=["settings"])


def _row(texts: tuple[str, ...], *, code: tuple[int, ...]) -> nodes.row:
    row = nodes.row()
    for column, text in enumerate(texts):
        words = [nodes.literal(text=text)] if column in code else _words(" ".join(text.split()))
        row += nodes.entry("", nodes.paragraph("", "", *words))
    return row


def _words(text: str) -> list[nodes.Node]:
    """Text with its code set as code, and a name in a role without its module."""
    words: list[nodes.Node] = []
    end = 0
    for found in _CODE.finditer(text):
        role, code = found.groups()
        shown = code.lstrip("~").rpartition(".")[2] if role else code
        words += [nodes.Text(text[end : found.start()]), nodes.literal(text=shown)]
        end = found.end()
    return [*words, nodes.Text(text[end:])]


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("settings", SettingsTable)
    return {"parallel_read_safe": True}
