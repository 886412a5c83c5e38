"""House style of every plot: sizes, colours, line widths, markers. Change the look here and nowhere else.

Colours are those of Okabe and Ito (distinct for colour-blind readers); every front also has its own marker and line
style, so that a plot printed in black and white can still be read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import matplotlib

from ratematch.match.points import Kind
from ratematch.plan.experiment import Origin

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, LIGHT_GREY, INK = "#6B6B6B", "#BDBDBD", "#222222"

FIGURE_INCHES = (7.6, 5.7)
SPEEDUP_INCHES = (7.6, 4.2)
PANELS_INCHES = (8.6, 4.3)
X_LABEL = "Interactivity [tok/s/user]"
Y_LABEL = "Throughput [output tok/s/GPU]"
"""Axes that every plot of fronts has."""
PNG_DPI = 200
MARGIN_LEFT, MARGIN_RIGHT = 0.72, 0.18
"""Inches between the figure's edge and the axes."""

TITLE_PT, AXIS_PT, TICK_PT, LEGEND_PT, LABEL_PT, FOOTER_PT, STAMP_PT = 11.5, 9.5, 8.0, 7.5, 6.4, 6.6, 9.0
LEADER_WIDTH_PT, THIN_WIDTH_PT = 0.5, 0.7
CURVE_MARKER_PT = 1.9
CURVE_ALPHA = 0.45
GAP_ALPHA = 0.13
BAND_ALPHA = 0.16
HEADROOM_X, HEADROOM_Y = 0.15, 0.10
"""Part of the axes left free right of and above the data, for labels."""

STAMP_TEXT = "EMULATED — not measured on GPUs"
SIMULATED_TEXT = "SIMULATED — computed in virtual time, not measured on GPUs"
PREDICTED_TEXT = "PREDICTED — by a model, nothing was run"
STAMP_FACE, STAMP_INK = YELLOW, BLACK


@dataclass(frozen=True)
class KindStyle:
    """How a front is drawn. ``max_labels``: labelled points at most. ``side``: where labels prefer to stand.
    ``hatch``: of its intervals."""

    name: str
    colour: str
    linestyle: str | tuple[float, tuple[float, ...]]
    width_pt: float
    marker: str
    marker_pt: float
    zorder: float
    max_labels: int
    side: tuple[float, float]
    hatch: str = ""


KINDS: dict[Kind, KindStyle] = {
    "bound": KindStyle("bound (fractional ctx:gen ratio)", SKY, (0, (4, 2)), 1.0, "", 0, 3.0, 0, (1, 1)),
    "rate_matched": KindStyle("rate-matched front", BLUE, "-", 2.3, "o", 5.6, 5.0, 8, (1, 1), "////"),
    "end_to_end": KindStyle("end-to-end front", VERMILION, (0, (6, 1.6)), 2.1, "s", 5.4, 6.0, 6, (-1, -1), "\\\\"),
    "ifb": KindStyle("IFB front", GREY, (0, (1, 1)), 2.0, "^", 5.8, 4.0, 4, (-1, -1)),
}


@dataclass(frozen=True)
class SeriesStyle:
    """How one of many like curves is drawn: colour and marker tell it apart, each on its own."""

    colour: str
    marker: str


SERIES: tuple[SeriesStyle, ...] = tuple(
    SeriesStyle(colour, marker)
    for colour, marker in (
        (BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (BLACK, "P"), (SKY, "X"),
        (GREY, "*"),
    )
)  # fmt: skip
MTP_LINES: tuple[str | tuple[float, tuple[float, ...]], ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (3, 1.2, 1, 1.2)),
    (0, (1, 1.1)),
)
"""Line style by MTP draft tokens: solid without, more broken with more."""
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "||||", "oo", "--", "++")


def series_style(number: int) -> SeriesStyle:
    """Colour and marker of the ``number``-th curve; they repeat after eight."""
    return SERIES[number % len(SERIES)]


def mtp_line(mtp: int) -> Any:
    return MTP_LINES[min(mtp, len(MTP_LINES) - 1)]


RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: the same picture on every machine
    "font.size": TICK_PT,
    "axes.labelsize": AXIS_PT,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a label is a dollar
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": TICK_PT,
    "ytick.labelsize": TICK_PT,
    "legend.fontsize": LEGEND_PT,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: searchable, editable
    "svg.hashsalt": "ratematch",  # the same input gives the same bytes
    "path.simplify": False,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's own defaults plus :data:`RC`, whatever the user's matplotlibrc says; restored on exit."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A sweep may be named in a script the font lacks: a box in the PNG, right in the SVG, no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


class Marked(Protocol):
    """Something that says where its figures come from."""

    @property
    def origin(self) -> Origin: ...


def find_stamp(*shown: Marked) -> str | None:
    """What stands over everything that was not measured on GPUs; ``None`` when all of ``shown`` was."""
    origins = {item.origin for item in shown}
    if "simulated" in origins:
        return SIMULATED_TEXT
    return STAMP_TEXT if "emulated" in origins else None


def name_origin(shown: Marked) -> str:
    """``simulated`` or ``emulated``; empty for what was measured on GPUs."""
    return "" if shown.origin == "real" else shown.origin


def say_origin(text: str, shown: Marked) -> str:
    """``text``, such as ``measured end to end``, as ``shown`` has it: what was run in virtual time was simulated, not
    measured; what an emulator answered was measured, and is emulated. What was measured on GPUs needs no word."""
    if shown.origin == "simulated" and "measured" in text:
        return text.replace("measured", "simulated")
    return f"{text}, {origin}" if (origin := name_origin(shown)) else text
