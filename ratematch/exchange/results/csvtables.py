"""CSV tables of other tools, recognised by their columns: AIConfigurator's predictions, InferenceX's dashboard."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace

from ratematch.errors import UserError
from ratematch.exchange.results import aiconfigurator, dashboard
from ratematch.exchange.results.fields import describe
from ratematch.exchange.results.foreign import ForeignLoad, Hints
from ratematch.match.table import TableRow

FIRST_ROW = 2
"""Rows of a rate table are numbered as in spreadsheets: the header is row 1."""


def read_csv(text: str, file: str) -> tuple[list[ForeignLoad], list[TableRow]]:
    """Loads (of the dashboard), or rows of a rate table (of AIConfigurator), each distinct one once.

    A line that cannot be read is a load that is ``refused``, with its reason.

    Raises:
        UserError: of neither tool, or no line of it can be read.
    """
    lines = _read_lines(text, file)
    _, header = next(lines, (0, {}))
    loads: list[ForeignLoad] = []
    rates: list[TableRow] = []
    if dashboard.is_table(list(header)):
        for number, cells in lines:
            place = f"row {number}"
            try:
                loads.append(dashboard.read_line(cells, file, place))
            except UserError as error:
                loads.append(ForeignLoad("InferenceX", file, Hints(), place, refused=_why(error, file, place)))
    elif aiconfigurator.is_table(list(header)):
        for number, cells in lines:
            place = f"row {number}"
            try:
                rates += aiconfigurator.read_line(cells, f"{file}: {place}")
            except UserError as error:
                loads.append(ForeignLoad("AIConfigurator", file, Hints(), place, refused=_why(error, file, place)))
    else:
        needed = f"{', '.join(aiconfigurator.DISAGG)}, or {', '.join(aiconfigurator.AGG)}"
        there = describe(", ".join(header))
        raise UserError(
            f"{file}: no columns of AIConfigurator ({needed}), nor of InferenceX's dashboard "
            f"({', '.join(dashboard.NEEDED)}); there are {there}"
        )
    if not loads and not rates:
        raise UserError(f"{file}: no row below the header")
    distinct = {repr(rate): rate for rate in rates}
    return loads, [replace(rate, row=place) for place, rate in enumerate(distinct.values(), FIRST_ROW)]


def _why(error: UserError, file: str, place: str) -> str:
    return str(error).removeprefix(f"{file}: {place}: ")


def _read_lines(text: str, file: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The header, then each line below it with its number in the file, by column. Lines before the header that begin
    with # are comments (a licence)."""
    source = io.StringIO(text.lstrip("\ufeff"), newline="")
    header: list[str] = []
    reader = csv.reader(source)
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells) or (not header and cells[0].lstrip().startswith("#")):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                yield reader.line_num, dict.fromkeys(header, "")
                continue
            yield reader.line_num, {name: cell.strip() for name, cell in zip(header, cells, strict=False) if name}
    except csv.Error as error:
        raise UserError(f"{file}:{reader.line_num}: not CSV that can be read ({error})") from error
