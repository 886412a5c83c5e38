"""A table of measured rates that somebody already has, as CSV text: read whole, with every problem of it named.

Columns: ``role`` (ctx, gen, ifb), ``label``, ``gpus``, ``isl``, ``osl``, ``concurrency``, ``req_s``, ``tok_s``,
``tpot_ms``, ``ttft_ms``, ``mtp``, ``kv_pieces``; further ones are kept. ctx rows: ``req_s`` of one instance. gen and
ifb rows: ``tok_s`` of one instance at ``concurrency``. An empty cell is an unknown value. Rows are numbered as in
spreadsheets: the header is row 1.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ratematch.errors import Problem, TableError
from ratematch.plan.numbers import brief, parse_number, shorten

TableRole = Literal["ctx", "gen", "ifb"]
ROLES: dict[str, TableRole] = {
    "ctx": "ctx",
    "context": "ctx",
    "prefill": "ctx",
    "gen": "gen",
    "generation": "gen",
    "decode": "gen",
    "ifb": "ifb",
    "agg": "ifb",
    "aggregated": "ifb",
}
NUMBERS = ("gpus", "isl", "osl", "concurrency", "req_s", "tok_s", "tpot_ms", "ttft_ms", "mtp", "kv_pieces")
COLUMNS = ("role", "label", *NUMBERS)
NEEDED: dict[TableRole, tuple[str, ...]] = {
    "ctx": ("gpus", "req_s"),
    "gen": ("gpus", "concurrency", "tok_s"),
    "ifb": ("gpus", "concurrency", "tok_s"),
}
WHOLE = ("gpus", "isl", "osl", "mtp", "kv_pieces")
MAY_BE_0 = ("mtp", "kv_pieces")
LEAST, MOST_OF_ALL = 1e-6, 1e9
MOST = {"gpus": 100_000, "mtp": 100}
"""A figure outside these is a slip of the keyboard or of a unit, whatever was measured."""

MOST_ROWS, MOST_CELL = 10_000, 1000
"""Rows of a table, and characters of a cell."""

_CELLS = f"cells hold up to {MOST_CELL:,}; is a quote left open?"

UNLIKE = 0.05
"""Columns of one row that say the same thing (tok_s and req_s x OSL, say) may differ by this share without a word."""


@dataclass(frozen=True)
class TableRow:
    """One row. ``row``: its number in the file. ``mtp``: ``None`` when the table does not say. ``kv_pieces``:
    in which a gen server in service posts a request's KV cache. ``rows``: all that were averaged, ``spread``: their
    rates (empty for one)."""

    row: int
    role: TableRole
    label: str
    gpus: int
    isl: int | None = None
    osl: int | None = None
    concurrency: float | None = None
    req_s: float | None = None
    tok_s: float | None = None
    tpot_ms: float | None = None
    ttft_ms: float | None = None
    mtp: int | None = None
    kv_pieces: int | None = None
    extra: dict[str, str] = field(default_factory=dict)
    rows: tuple[int, ...] = ()
    spread: tuple[float, ...] = ()

    @property
    def rate(self) -> float:
        """What the row is about: requests/s of a ctx row, tok/s of the others."""
        value = self.req_s if self.role == "ctx" else self.tok_s
        assert value is not None  # read_table() saw to it
        return value


def read_table(text: str, name: str) -> list[TableRow]:
    """The rows of a table. ``name``: what to call it in messages.

    Raises:
        TableError: with every problem found, each with its row number.
    """
    lines = _read_lines(text, name)
    if not lines:
        raise TableError([Problem(name, "the table is empty", f"columns: {','.join(COLUMNS)}")])
    header = [cell.strip().lower() for cell in lines[0][1]]
    missing = [column for column in ("role", "label", "gpus") if column not in header]
    if missing:
        raise TableError([_describe_missing(name, missing, header)])
    twice = sorted({column for column in header if column and header.count(column) > 1})
    if twice:
        raise TableError([Problem(name, f"row 1: the column {', '.join(twice)} is there twice", "keep one")])
    problems: list[Problem] = []
    rows = [row for number, cells in lines[1:] if (row := _read_row(name, number, header, cells, problems))]
    if not lines[1:]:
        problems.append(Problem(name, "no row below the header", "one row a measurement"))
    if absent := _absent(rows, header):
        problems.append(_describe_missing(name, absent, header))
    if problems:
        raise TableError(_once(problems))
    _refuse_mixture(name, rows)
    _refuse_unclear_pieces(name, rows)
    return rows


def _read_lines(text: str, name: str) -> list[tuple[int, list[str]]]:
    """The rows that hold anything, with their numbers.

    Raises:
        TableError: a cell longer than any text of a table, more rows than can be matched, or no CSV.
    """
    lines: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff")))
    number = 0
    try:
        for number, cells in enumerate(reader, 1):
            if any(cell.strip() for cell in cells):
                lines.append((number, cells))
            if longest := max((len(cell) for cell in cells if len(cell) > MOST_CELL), default=0):
                raise TableError([Problem(f"{name}: row {number}", f"a cell of {longest:,} characters", _CELLS)])
            if len(lines) > MOST_ROWS + 1:
                raise TableError([Problem(name, f"more than {MOST_ROWS:,} rows", "give one workload's")])
    except csv.Error as error:
        what = f"a cell of more than {csv.field_size_limit():,} characters" if "limit" in str(error) else str(error)
        raise TableError([Problem(f"{name}: row {number + 1}", what, _CELLS)]) from None
    return lines


def _once(problems: Iterable[Problem]) -> list[Problem]:
    return list({str(problem): problem for problem in problems}.values())


def _describe_missing(name: str, missing: Sequence[str], header: Sequence[str]) -> Problem:
    for separator, called in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and separator in header[0]:
            return Problem(name, f"row 1: columns are separated by {called}", "save it with commas")
    columns = " and no ".join(f"column {column!r}" for column in missing)
    return Problem(name, f"row 1: no {columns}", f"columns here: {shorten(', '.join(header))}")


def _absent(rows: Sequence[TableRow], header: Sequence[str]) -> list[str]:
    return sorted({column for row in rows for column in NEEDED[row.role] if column not in header})


def _read_row(
    name: str, number: int, header: Sequence[str], cells: Sequence[str], problems: list[Problem]
) -> TableRow | None:
    where = f"{name}: row {number}"
    if len(cells) > len(header):
        problems.append(Problem(where, f"{len(cells)} cells under {len(header)} columns", "quote text with commas"))
        return None
    by_column = {column: cell.strip() for column, cell in zip(header, cells, strict=False)}
    role = ROLES.get(by_column.get("role", "").lower())
    if role is None:
        problems.append(
            Problem(where, f"role {brief(by_column.get('role', ''))} is not known", "write ctx, gen or ifb")
        )
        return None
    label = by_column.get("label", "")
    if not label:
        problems.append(Problem(where, "no label", "name the configuration, e.g. DEP8"))
    before = len(problems)
    numbers = {column: _number(where, column, by_column.get(column, ""), problems) for column in NUMBERS}
    for column in NEEDED[role]:
        if column in header and not by_column.get(column, ""):
            problems.append(Problem(where, f"no {column}", f"a {role} row needs {' and '.join(NEEDED[role])}"))
    if len(problems) > before or not label:
        return None
    return TableRow(
        row=number,
        role=role,
        label=label,
        gpus=_whole(numbers["gpus"]) or 0,
        isl=_whole(numbers["isl"]),
        osl=_whole(numbers["osl"]),
        concurrency=numbers["concurrency"],
        req_s=numbers["req_s"],
        tok_s=numbers["tok_s"],
        tpot_ms=numbers["tpot_ms"],
        ttft_ms=numbers["ttft_ms"],
        mtp=_whole(numbers["mtp"]),
        kv_pieces=_whole(numbers["kv_pieces"]),
        extra={column: value for column, value in by_column.items() if column and column not in COLUMNS},
        rows=(number,),
        spread=(),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _number(where: str, column: str, text: str, problems: list[Problem]) -> float | None:
    if not text:
        return None
    limit = MOST.get(column, MOST_OF_ALL)
    between = f"it must be between {LEAST:g} and {limit:g}"
    try:
        value = parse_number(text)
    except ValueError as error:
        what, fix = f"{column} is {_as_number(text)}", between
        if str(error) == "a number":
            what, fix = f"{column} {brief(text)} is not a number", "leave unknown values empty"
        elif str(error) == "a finite number":
            fix = "leave unknown values empty"
        problems.append(Problem(where, what, fix))
        return None
    if value < 0 or (value == 0 and column not in MAY_BE_0):
        problems.append(Problem(where, f"{column} is {shorten(text)}", "it must be above 0"))
    elif value > limit or 0 < value < LEAST:
        problems.append(Problem(where, f"{column} is {value:g}", between))
    elif column in WHOLE and value != int(value):
        problems.append(Problem(where, f"{column} is {shorten(text)}", "it must be a whole number"))
    else:
        return value
    return None


def _as_number(text: str) -> str:
    """A number that is not taken, as short as it can be written."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return shorten(text)


def check_row(row: TableRow) -> list[str]:
    """Why :func:`read_table` would not take ``row`` if it were written into a table; empty when it would."""
    problems: list[Problem] = []
    cells = {column: value for column in NUMBERS if (value := getattr(row, column)) is not None}
    for column, value in cells.items():
        _number("", column, str(value), problems)
    lacking = [f"no {column}" for column in NEEDED[row.role] if column not in cells]
    return [*lacking, *(f"{problem.what} ({problem.fix})" for problem in problems)]


def _refuse_mixture(name: str, table: Sequence[TableRow]) -> None:
    """Emulated and real rates never share a front, nor do two models, GPUs or precisions."""
    for column in ("emulated", "predicted", "model", "gpu", "hardware", "precision"):
        by_value: dict[str, list[int]] = {}
        for row in table:
            if column in row.extra:
                by_value.setdefault(row.extra[column].lower(), []).append(row.row)
        if len(by_value) > 1:
            where = "; ".join(f"{value or 'nothing'} in {describe_rows(rows)}" for value, rows in by_value.items())
            what = {"emulated": "emulated and real rates", "predicted": "predicted and measured rates"}.get(
                column, f"rates of different {column}"
            )
            raise TableError([Problem(name, f"{what} never share a front: {where}", "one table for each")])


def _refuse_unclear_pieces(name: str, table: Sequence[TableRow]) -> None:
    """Rows of one gen configuration say how many pieces a request has, or none of them does."""
    groups: dict[tuple[str, int, int | None], list[TableRow]] = {}
    for row in table:
        if row.role == "gen":
            groups.setdefault((row.label, row.gpus, row.mtp), []).append(row)
    for (label, _, _), rows in groups.items():
        silent = [row.row for row in rows if row.kv_pieces is None]
        if silent and len(silent) < len(rows):
            where = f"{name}: {describe_rows(silent)}"
            raise TableError([Problem(where, f"no kv_pieces, and other rows of gen {label} have them", "fill it in")])


def describe_rows(numbers: Iterable[int]) -> str:
    """``row 4``, ``rows 2-5, 9``."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    text = ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)
    return f"row{'s' if sum(map(len, spans)) > 1 else ''} {text}"


def select_workload(rows: Sequence[TableRow], osl: int | None, name: str) -> tuple[list[TableRow], int, list[str]]:
    """The rows of one ISL and OSL, the OSL, and notes. Without ``osl`` the output length that most gen rows have.

    ctx rows serve every OSL. A row without ``osl`` is taken to be of the one that is matched.

    Raises:
        TableError: no row has that OSL, no row says any, or the rows left are of several ISLs.
    """
    notes: list[str] = []
    by_osl: dict[int, list[int]] = {}
    deciding = [row for row in rows if row.role == "gen"] or [row for row in rows if row.role == "ifb"]
    for row in rows:
        if row.role != "ctx" and row.osl is not None:
            by_osl.setdefault(row.osl, []).append(row.row)
    if osl is None:
        if not deciding:
            what = "no gen or ifb row has an osl: there are only ctx rows"
            raise TableError([Problem(name, what, "add rows of a generation server measured alone")])
        counts = {value: sum(row.osl == value for row in deciding) for value in by_osl}
        if not counts:
            raise TableError([Problem(name, "no gen or ifb row has an osl", "fill the column or give --osl")])
        osl = max(counts, key=lambda value: (counts[value], -value))
        if len(by_osl) > 1:
            lengths = _describe_lengths("OSL", by_osl)
            notes.append(f"mixed output lengths ({lengths}): OSL {osl} is taken; --osl chooses")
    elif by_osl and osl not in by_osl and all(row.osl is not None for row in deciding):
        raise TableError([Problem(name, f"no gen or ifb row has OSL {osl}", _describe_lengths("OSL", by_osl))])
    elif len(by_osl) > 1:
        others = sorted(number for value, numbers in by_osl.items() if value != osl for number in numbers)
        notes.append(f"OSL {osl} as asked for; {describe_rows(others)} of other output lengths left out")
    chosen = [row for row in rows if row.role == "ctx" or row.osl in (None, osl)]
    by_isl: dict[int, list[int]] = {}
    for row in chosen:
        if row.isl is not None:
            by_isl.setdefault(row.isl, []).append(row.row)
    if len(by_isl) > 1:
        what = f"rates of different prompt lengths cannot be matched: {_describe_lengths('ISL', by_isl)}"
        raise TableError([Problem(name, what, "split it")])
    return chosen, osl, notes


def _describe_lengths(what: str, rows: Mapping[int, Sequence[int]]) -> str:
    return "; ".join(f"{what} {value} in {describe_rows(numbers)}" for value, numbers in sorted(rows.items()))


def merge_repeats(rows: Sequence[TableRow]) -> tuple[list[TableRow], list[str]]:
    """One row for each operating point: rows that say it again are repeats, averaged and said.

    ctx rows without concurrency are kept apart by their TTFT.
    """
    groups: dict[tuple[object, ...], list[TableRow]] = {}
    for row in rows:
        pressure = row.concurrency if row.role != "ctx" or row.concurrency is not None else (None, row.ttft_ms)
        groups.setdefault((row.role, row.label, row.gpus, row.mtp, row.kv_pieces, pressure), []).append(row)
    merged, notes = [], []
    for group in groups.values():
        first = group[0]
        if len(group) == 1:
            merged.append(first)
            continue
        rates = tuple(row.rate for row in group)
        numbers = tuple(row.row for row in group)
        mean = sum(rates) / len(rates)
        at = f" at concurrency {first.concurrency:g}" if first.concurrency is not None else ""
        apart = (max(rates) - min(rates)) / mean
        what = f"{apart:.1%} apart, averaged" if apart else "equal, counted once"
        notes.append(f"{describe_rows(numbers)}: {first.role} {first.label}{at} is there {len(group)} times, {what}")
        merged.append(
            replace(
                first,
                req_s=_mean_of(group, "req_s"),
                tok_s=_mean_of(group, "tok_s"),
                tpot_ms=_mean_of(group, "tpot_ms"),
                ttft_ms=_mean_of(group, "ttft_ms"),
                rows=numbers,
                spread=rates,
            )
        )
    return merged, notes


def _mean_of(group: Sequence[TableRow], column: str) -> float | None:
    known = [value for row in group if (value := getattr(row, column)) is not None]
    return sum(known) / len(known) if known else None


def check_identities(rows: Sequence[TableRow], osl: int) -> list[str]:
    """Notes on rows that contradict themselves: tok/s against requests/s x OSL, TPOT against C / T, Little's law."""
    notes = []
    for row in rows:
        where, c = f"{describe_rows(row.rows)} ({row.role} {row.label})", row.concurrency
        if row.role == "ctx" or row.tok_s is None or c is None:
            continue
        if row.req_s is not None and abs(row.tok_s / (row.req_s * osl) - 1) > UNLIKE:
            notes.append(f"{where}: {row.tok_s:g} tok/s is not {row.req_s:g} requests/s x {osl}; tok/s is used")
        if row.tpot_ms is None:
            continue
        if row.role == "gen" and abs(row.tpot_ms * row.tok_s / (1000 * c) - 1) > UNLIKE:
            identity = 1000 * c / row.tok_s
            notes.append(
                f"{where}: tpot_ms {row.tpot_ms:g} is not concurrency / tok_s = {identity:.4g} ms; the latter is used"
            )
        if row.role == "ifb" and row.ttft_ms is not None:
            held = row.tok_s / osl * (row.ttft_ms + (osl - 1) * row.tpot_ms) / 1000
            if abs(held / c - 1) > 2 * UNLIKE:
                notes.append(f"{where}: rate x latency = {held:.4g} requests in flight, not {c:g} (Little's law)")
    return notes
