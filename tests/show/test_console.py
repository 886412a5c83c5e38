"""Terminal views: nothing cut, nothing read as markup, emulation said first."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from typing import Literal

import pytest
from rich.console import Console

from ratematch.match.points import Analysis
from ratematch.show import console
from ratematch.show.console import MOST_FRONT, show_value, table, thin_front
from ratematch.show.terminal import Terminal
from ratematch.show.views.analysis import print_analysis

from .invented import make_analysis, make_crowded, make_empty, make_few, make_hostile, make_many, make_point


def _printed(analysis: Analysis, width: int = 100) -> str:
    stream = io.StringIO()
    print_analysis(analysis, Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


def test_fronts_speedup_gap_left_out_and_notes_are_all_said() -> None:
    workload = make_many()
    text = _printed(make_analysis(workload))
    for point in (*workload.rate_matched, *workload.end_to_end, *workload.ifb):
        assert point.label in text
    flat = " ".join(text.split())
    assert "gives 1.48 to 2.52 times the tok/s/GPU of IFB at equal tok/s/user (measured end to end, emulated)" in flat
    assert "gives 1.70 to 2.90 times the tok/s/GPU of IFB at equal tok/s/user (predicted" in flat
    assert "median 86.5%, 82.0% to 93.0% over 6 points (1 more without a prediction)" in flat
    assert "3 of 512 requests failed, no steady window" in flat
    assert "note: ctx curve of TEP4 is clamped above 9.1 requests/s." in flat


def test_emulation_is_said_before_any_number_and_only_when_so() -> None:
    text = _printed(make_analysis(make_few()))
    assert text.index("EMULATED") < text.index("DeepSeek-R1") < text.index("310")
    assert "emulated" not in _printed(make_analysis(make_few(), emulated=False)).lower()


@pytest.mark.parametrize("width", [40, 80, 100])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut(width: int) -> None:
    text = _printed(make_analysis(make_many(), make_crowded()), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_long_labels_stand_whole_on_one_line_at_100_columns() -> None:
    text = _printed(make_analysis(make_crowded()))
    assert "ctx21xTP8PP2CP2-gen31xDEP64-mtp3" in text


def test_usual_labels_stand_whole_on_one_line_at_80_columns() -> None:
    few = make_few()
    clamped = replace(few.rate_matched[0], clamped=True)
    text = _printed(make_analysis(replace(few, rate_matched=(clamped,))), width=80)
    (line,) = [line for line in text.splitlines() if clamped.label in line]
    assert line.rstrip().endswith("gen *") and "outside" in text
    assert "*" not in _printed(make_analysis(few))


def test_markup_in_names_stays_text_and_terminal_codes_go() -> None:
    text = _printed(make_analysis(make_hostile()))
    for name in (
        "<script>alert(1)</script>",
        "[bold]&amp;",
        r"$\frac{1}$",
        "[/red]<script>",
        "[link=x]reason",
        "[blink]$x$",
    ):
        assert name in text
    assert "\x1b" not in text and "\x00" not in text and "\u202e" not in text


def test_an_empty_workload_says_so() -> None:
    text = _printed(make_analysis(make_empty()))
    assert "rate-matched front: no valid point" in text and "32 of 64 requests failed" in text
    assert "speed-up" not in text
    assert "No workload has results." in _printed(make_analysis())


def test_table_stands_numbers_right_and_shows_undefined_as_a_dash() -> None:
    stream = io.StringIO()
    Console(file=stream, width=60).print(
        table("[plan]", ("stage", "GPUs", "ok"), [("ctx", 4, True), ("[b]gen", 128, None)])
    )
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert lines[0] == "[plan]"
    assert lines[3].split() == ["ctx", "4", "yes"] and lines[4].split() == ["[b]gen", "128", "-"]
    assert lines[3].index("4") == lines[4].index("128") + 2


def test_table_refuses_a_row_of_the_wrong_length() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        table("t", ("a", "b"), [("x",)])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (0.0, "0"),
        (1234.5, "1234"),
        (12.345, "12.3"),
        (0.01234, "0.0123"),
        (-5.0, "-5.00"),
        (7, "7"),
        (True, "yes"),
        ("9/2", "9/2"),
    ],
)
def test_values_read_plainly(value: object, text: str) -> None:
    assert show_value(value) == text


def test_a_long_front_is_shown_in_few_rows_from_end_to_end() -> None:
    point = make_point("rate_matched", 50.0, 100.0, "ctx1xTEP4-gen1xDEP8-mtp0")
    front = [
        replace(point, tok_s_user=20.0 * 1.02**k, tok_s_gpu=900.0 - k, gpus=8 + (7 * k) % 64, label=f"row {k}")
        for k in range(120)
    ]
    shown = thin_front(front)
    assert len(shown) == MOST_FRONT
    assert (shown[0], shown[-1]) == (front[0], front[-1])
    assert [front.index(row) for row in shown] == sorted(front.index(row) for row in shown)
    # Between the ends the smallest deployment of each stretch.
    assert sum(row.gpus for row in shown[1:-1]) / 13 < sum(row.gpus for row in front) / 120 / 2
    assert thin_front(front[:MOST_FRONT]) == front[:MOST_FRONT]
    few = make_few()
    text = _printed(make_analysis(replace(few, rate_matched=tuple(front), plans=tuple(front))))
    assert f"{MOST_FRONT} of 120 rows, all in fronts.csv" in " ".join(text.split())


def _render(rows: list[list[object]], columns: list[str], title: str, width: int, colour: bool) -> str:
    stream = io.StringIO()
    system: Literal["truecolor"] | None = "truecolor" if colour else None
    Terminal(file=stream, width=width, force_terminal=colour, color_system=system).print(table(title, columns, rows))
    return stream.getvalue()


CELLS = [
    None,
    "",
    "x" * 17,
    "two words",
    " spaces ",
    "日本語",
    "e\u0301",
    "a\nb",
    "\x1b[1mred",
    "[bold]x[/]",
    5,
    0.00123,
]


@pytest.mark.parametrize("seed", range(12))
def test_a_table_of_many_rows_is_the_same_to_the_letter(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    columns = [rng.choice(["a", "long name of a column", "日本"]) for _ in range(rng.randint(1, 5))]
    kinds = [rng.choice([CELLS, CELLS[-2:]]) for _ in columns]
    rows = [[rng.choice(kind) for kind in kinds] for _ in range(30)]
    title = rng.choice(["", "t", "a title that is longer than the table " * 3])
    for width in (15, 60, 200):
        for colour in (False, True):
            monkeypatch.setattr(console, "MOST_CELL_BY_CELL", 100)
            cell_by_cell = _render(rows, columns, title, width, colour)
            monkeypatch.setattr(console, "MOST_CELL_BY_CELL", 0)
            assert _render(rows, columns, title, width, colour) == cell_by_cell
