"""What terminal views are built of: tables and values, readable at 100 columns.

Text from data is never read as markup and never cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ratematch.show.files import one_line

MOST_FRONT = 15
"""Rows of a front shown in a terminal."""


class OnFront(Protocol):
    """What a row of any front has."""

    @property
    def gpus(self) -> int: ...
    @property
    def tok_s_user(self) -> float: ...
    @property
    def tok_s_gpu(self) -> float: ...


Row = TypeVar("Row", bound=OnFront)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A plain table. A column of numbers (or ``None``, shown as ``-``) stands right and is never folded; a column of
    text stands left and folds when the terminal is too narrow. ``bool`` reads yes / no, floats three digits.

    Raises:
        ValueError: a row has not as many cells as there are columns.
    """
    cells = [list(row) for row in rows]
    for row in cells:
        if len(row) != len(columns):
            raise ValueError(f"table {title!r}: a row of {len(row)} cells under {len(columns)} columns")
    view = Table(
        title=plain_text(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    for index, name in enumerate(columns):
        values = [row[index] for row in cells if row[index] is not None]
        numeric = bool(values) and all(isinstance(value, int | float) for value in values)
        view.add_column(
            plain_text(name), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold", min_width=None
        )
    for row in cells:
        view.add_row(*(plain_text(show_value(value)) for value in row))
    return view


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
