"""What terminal views are built of: tables and values, readable at 100 columns.

Text from data is never read as markup and never cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ratematch.show.files import one_line

MOST_FRONT = 15
"""Rows of a front shown in a terminal."""


MOST_CELL_BY_CELL = 100
"""Rows of a table that rich lays out whatever they hold."""

BETWEEN = "  "
"""Columns of a table."""


class OnFront(Protocol):
    """What a row of any front has."""

    @property
    def gpus(self) -> int: ...
    @property
    def tok_s_user(self) -> float: ...
    @property
    def tok_s_gpu(self) -> float: ...


Row = TypeVar("Row", bound=OnFront)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table | _Rows:
    """A plain table. A column of numbers (or ``None``, shown as ``-``) stands right and is never folded; a column of
    text stands left and folds when the terminal is too narrow. ``bool`` reads yes / no, floats three digits.

    Raises:
        ValueError: a row has not as many cells as there are columns.
    """
    cells = [list(row) for row in rows]
    for row in cells:
        if len(row) != len(columns):
            raise ValueError(f"table {title!r}: a row of {len(row)} cells under {len(columns)} columns")
    heads = []
    for index, name in enumerate(columns):
        values = [row[index] for row in cells if row[index] is not None]
        numeric = bool(values) and all(isinstance(value, int | float) for value in values)
        heads.append(_Head(one_line(name), numeric))
    view = _Rows(title, tuple(heads), tuple(tuple(one_line(show_value(value)) for value in row) for row in cells))
    return view if len(cells) > MOST_CELL_BY_CELL else view.as_table()


@dataclass(frozen=True)
class _Head:
    """One column: what stands over it, and whether it holds numbers."""

    name: str
    numeric: bool


@dataclass(frozen=True)
class _Rows:
    """A table of many rows. Where each fits into one line of the terminal, they are written line by line, to the same
    letters as rich's own table, which takes a third of a millisecond a row."""

    title: str
    heads: tuple[_Head, ...]
    rows: tuple[tuple[str, ...], ...]

    def as_table(self) -> Table:
        """As rich lays it out, cell by cell."""
        view = self._head([None] * len(self.heads))
        for row in self.rows:
            view.add_row(*(plain_text(cell) for cell in row))
        return view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The head as rich lays it out over columns that are as wide as the rows need, and the rows below it."""
        widths = [
            max(cell_len(text) for text in (head.name, *(row[index] for row in self.rows)))
            for index, head in enumerate(self.heads)
        ]
        if sum(widths) + len(BETWEEN) * (len(widths) - 1) > options.max_width:
            yield self.as_table()
            return
        yield self._head(widths)
        for row in self.rows:
            cells = [_fill(*cell) for cell in zip(row, widths, self.heads, strict=True)]
            yield Segment(BETWEEN.join(cells))
            yield Segment.line()

    def _head(self, widths: Sequence[int | None]) -> Table:
        view = Table(
            title=plain_text(self.title) if self.title else None,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            padding=(0, 1),
            pad_edge=False,
            show_edge=False,
            collapse_padding=True,
        )
        for head, width in zip(self.heads, widths, strict=True):
            justify: JustifyMethod = "right" if head.numeric else "left"
            name = plain_text(head.name)
            view.add_column(name, justify=justify, no_wrap=head.numeric, overflow="fold", width=width)
        return view


def _fill(cell: str, width: int, head: _Head) -> str:
    """``cell`` with spaces to ``width`` places of a terminal."""
    spaces = " " * (width - cell_len(cell))
    return spaces + cell if head.numeric else cell + spaces


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], console: Console) -> None:
    """A :func:`table` with its title on lines of its own: as a title rich would fold it to the width of the table."""
    view = table("", columns, rows)
    if title:
        console.print(plain_text(title), style="bold")
    console.print(view)


def show_value(value: Any) -> str:
    """A value as people read it: ``None`` and undefined as ``-``, floats with three digits and no exponent."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            if not math.isfinite(value):
                return "-"
            if value == 0:
                return "0"
            digits = max(0, 2 - math.floor(math.log10(abs(value))))
            return f"{value:.{min(digits, 6)}f}"
        case _:
            return str(value)


def plain_text(content: str) -> Text:
    """``content`` on one line, never read as markup, folded where the terminal ends."""
    return Text(one_line(content), overflow="fold")


def thin_front(front: Sequence[Row]) -> list[Row]:
    """At most ``MOST_FRONT`` rows of a front (ascending tok/s/user); see :func:`thin_places`."""
    if len(front) <= MOST_FRONT:
        return list(front)
    places = thin_places([(point.gpus, point.tok_s_user, point.tok_s_gpu) for point in front])
    return [front[at] for at in places]


def thin_places(front: Sequence[tuple[int, float, float]]) -> list[int]:
    """Which of (GPUs, tok/s/user, tok/s/GPU), ascending tok/s/user, are shown: both ends, and in each even step of
    log(tok/s/user) between them the one with fewest GPUs. A large budget has a ratio for every digit of tok/s/user,
    and the differences are far below what rates repeat to."""
    if len(front) <= MOST_FRONT:
        return list(range(len(front)))
    low, high = math.log(front[0][1]), math.log(front[-1][1])
    steps: dict[int, int] = {}
    for at, (gpus, tok_s_user, tok_s_gpu) in enumerate(front[1:-1], 1):
        step = int((math.log(tok_s_user) - low) / (high - low) * (MOST_FRONT - 2))
        if step not in steps or (gpus, -tok_s_gpu) < (front[steps[step]][0], -front[steps[step]][2]):
            steps[step] = at
    return [0, *(steps[step] for step in sorted(steps)), len(front) - 1]
