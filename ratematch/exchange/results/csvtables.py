"""CSV tables of other tools, recognised by their columns: AIConfigurator's predictions, InferenceX's dashboard."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ratematch.errors import UserError
from ratematch.exchange.results import aiconfigurator, dashboard
from ratematch.exchange.results.fields import describe
from ratematch.exchange.results.foreign import ForeignLoad, Hints, Tool
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
    _, header = next(lines, (0, []))
    _refuse_other(header, file)
    tool: Tool = "InferenceX" if dashboard.is_table(header) else "AIConfigurator"
    loads: list[ForeignLoad] = []
    rates: list[TableRow] = []
    for number, cells in lines:
        place = f"row {number}"
        where = f"{file}: {place}"
        try:
            row = _by_column(header, cells, where)
            if tool == "InferenceX":
                loads.append(dashboard.read_line(row, file, place))
            else:
                rates += aiconfigurator.read_line(row, where)
        except UserError as error:
            loads.append(ForeignLoad(tool, file, Hints(), place, refused=str(error).removeprefix(f"{where}: ")))
    if not loads and not rates:
        raise UserError(f"{file}: no row below the header")
    distinct = {repr(rate): rate for rate in rates}
    return loads, [replace(rate, row=place) for place, rate in enumerate(distinct.values(), FIRST_ROW)]


def _refuse_other(header: Sequence[str], file: str) -> None:
    """Raises UserError: the columns are of neither tool, or of one with something else than commas between them."""
    if dashboard.is_table(header) or aiconfigurator.is_table(header):
        return
    for separator, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        names = [name.strip() for name in ",".join(header).split(separator)]
        if dashboard.is_table(names) or aiconfigurator.is_table(names):
            raise UserError(f"{file}: columns are separated by {called}; save it with commas and decimal points")
    needed = f"{', '.join(aiconfigurator.DISAGG)}, or {', '.join(aiconfigurator.AGG)}"
    there = describe(", ".join(header))
    raise UserError(
        f"{file}: no columns of AIConfigurator ({needed}), nor of InferenceX's dashboard "
        f"({', '.join(dashboard.NEEDED)}); there are {there}"
    )


def _by_column(header: Sequence[str], cells: Sequence[str], where: str) -> dict[str, str]:
    """The cells of a line by column.

    Raises:
        UserError: there are more or fewer than columns, so that some stand under another one's name, or are cut off.
    """
    if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
        raise UserError(
            f"{where}: {len(cells)} cells under {len(header)} columns: cut off, or text with commas in it"
        )
    return {name: cell.strip() for name, cell in zip(header, cells, strict=False) if name}


def _read_lines(text: str, file: str) -> Iterator[tuple[int, list[str]]]:
    """The header, then each line below it with its number in the file. Lines before the header that begin with # are
    comments (a licence)."""
    source = io.StringIO(text.lstrip("\ufeff"), newline="")
    header: list[str] = []
    reader = csv.reader(source)
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells) or (not header and cells[0].lstrip().startswith("#")):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                yield reader.line_num, header
                continue
            yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{file}:{reader.line_num}: not CSV that can be read ({error})") from error
