"""The page a terminal gives us: width, colour, character set; and drawing on it."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bytebound.report.words import clean, to_ascii

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import RenderableType

PLAIN_WIDTH = 110
NARROWEST, WIDEST = 60, 200
WIDE = 132


@dataclass(frozen=True, slots=True)
class Page:
    """Where text goes: columns, whether colour is wanted, whether only ASCII can be shown."""

    width: int = PLAIN_WIDTH
    colour: bool = False
    ascii: bool = False

    @property
    def wide(self) -> bool:
        """Whether one row can hold what otherwise takes two."""
        return self.width >= WIDE


def page_for(stream: TextIO, environment: Mapping[str, str] | None = None) -> Page:
    """Return the page of ``stream``: NO_COLOR, FORCE_COLOR, TERM and COLUMNS are honoured.

    A stream that is not a terminal gets plain text of a fixed width, so that a file is the same everywhere.
    """
    env = os.environ if environment is None else environment
    terminal = bool(getattr(stream, "isatty", lambda: False)())
    colour = terminal and env.get("TERM") != "dumb" and not env.get("NO_COLOR")
    colour = colour or (bool(env.get("FORCE_COLOR")) and not env.get("NO_COLOR"))
    given = env.get("COLUMNS", "")
    if given.isdigit():
        width = int(given)
    else:
        width = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns if terminal else PLAIN_WIDTH
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return Page(width=min(max(width, NARROWEST), WIDEST), colour=colour, ascii=not _can_show(encoding))


def _can_show(encoding: str) -> bool:
    try:
        "✗✓–µ×’".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def draw(parts: Iterable[RenderableType], page: Page) -> str:
    """Return ``parts`` drawn on ``page``, without spaces at line ends."""
    console = Console(
        file=io.StringIO(),
        width=page.width,
        force_terminal=page.colour,
        no_color=not page.colour,
        color_system="standard" if page.colour else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    text = "\n".join(line.rstrip() for line in capture.get().split("\n"))
    return to_ascii(text) if page.ascii else text


def heading(text: str) -> Text:
    """Return a bold line; long ones wrap."""
    return Text(text, style="bold")


def indented(text: str, *, by: int = 2, style: str = "") -> RenderableType:
    """Return ``text`` wrapped with a hanging indent of ``by`` columns."""
    return Padding(Text(text, style=style), (0, 0, 0, by))


def labelled(rows: Sequence[tuple[str, str]], *, style: str = "", by: int = 2) -> RenderableType:
    """Return lines of a label and a text that wraps beside its label."""
    cells = [(Text(label, style="dim"), Text(text, style=style)) for label, text in rows]
    return grid(("", "!"), ("", "w"), rows=cells, header=False, indent=by)


Cell = str | Text


def grid(
    *columns: tuple[str, str], rows: Sequence[Sequence[Cell]], header: bool = True, indent: int = 0
) -> RenderableType:
    """Return a table without lines whose numbers are never cut.

    A column is (title, flags): ``r`` right, ``!`` never narrower than its longest cell, ``w`` may wrap; a column
    without ``!`` or ``w`` ends in … where the page is too narrow.
    """
    table = Table(box=None, show_header=header, header_style="bold dim", pad_edge=False, padding=(0, 2, 0, 0))
    for place, (title, flags) in enumerate(columns):
        longest = max((len(row[place]) for row in rows), default=0)
        table.add_column(
            title,
            justify="right" if "r" in flags else "left",
            no_wrap="!" in flags,
            overflow="fold" if "w" in flags else "ellipsis",
            min_width=max(longest, len(title)) if "!" in flags else None,
        )
    for row in rows:
        cells = [cell.copy() if isinstance(cell, Text) else Text(cell) for cell in row]
        for cell, (_, flags) in zip(cells, columns, strict=True):
            cell.no_wrap = "w" not in flags  # on the cell: a column marked so would not be narrowed first
        table.add_row(*cells)
    return Padding(table, (0, 0, 0, indent))


def table_text(
    *, title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], page: Page, note: str = ""
) -> str:
    """Return a titled list, one row a line where the page is wide enough."""
    table = grid(*columns, rows=[[clean(cell) for cell in row] for row in rows])
    parts: list[RenderableType] = [heading(title), Text(""), table]
    return draw([*parts, Text(""), Text(note, style="dim")] if note else parts, page)


def record_text(*, title: str, fields: Sequence[tuple[str, str]], page: Page, note: str = "") -> str:
    """Return one thing in full: a name and a value a line, long values wrapped."""
    rows = [(Text(clean(name), style="dim"), clean(value)) for name, value in fields]
    table = grid(("", "!"), ("", "w"), rows=rows, header=False, indent=2)
    parts: list[RenderableType] = [heading(title), Text(""), table]
    return draw([*parts, Text(""), Text(note, style="dim")] if note else parts, page)
