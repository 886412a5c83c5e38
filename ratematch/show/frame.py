"""What stands around the axes: stamp, title, legend above; definitions below. Each returns the height it took."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text

from ratematch.show import style
from ratematch.show.files import one_line

EDGE_IN = 0.08
MAX_LINES = 4


def new_figure(inches: tuple[float, float]) -> Figure:
    """An empty figure on its own Agg canvas."""
    figure = Figure(figsize=inches, dpi=style.PNG_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def draw_header(
    figure: Figure, title: str, entries: Sequence[Line2D | Patch], stamp: str | None, columns: int = 4
) -> float:
    """Stamp, title and legend from the top edge down; returns the inches they take. None lies over the axes."""
    width, height = figure.get_size_inches()
    down = EDGE_IN
    if stamp is not None:
        strip = (style.STAMP_PT + 8) / 72
        figure.add_artist(
            Rectangle(
                (0, 1 - strip / height),
                1,
                strip / height,
                transform=figure.transFigure,
                facecolor=style.STAMP_FACE,
                edgecolor="none",
                gid="stamp",
            )
        )
        figure.text(
            0.5,
            1 - strip / 2 / height,
            stamp,
            ha="center",
            va="center_baseline",
            fontsize=style.STAMP_PT,
            fontweight="bold",
            color=style.STAMP_INK,
            gid="emulated",
        )
        down = strip + EDGE_IN
    left = style.MARGIN_LEFT / width
    heading = figure.text(
        left, 1 - down / height, "", va="top", fontsize=style.TITLE_PT, fontweight="bold", gid="title"
    )
    down += _fill(figure, heading, one_line(title)) + EDGE_IN
    if entries:
        legend = _draw_legend(figure, entries, (left, 1 - down / height), columns)
        down += legend.get_window_extent(renderer_of(figure)).height / figure.dpi
    return down + EDGE_IN


def draw_footer(figure: Figure, paragraphs: Sequence[str], bold_first: bool = False) -> float:
    """Paragraphs from the bottom edge up; returns the inches below the axes, with room for their own labels."""
    width, height = figure.get_size_inches()
    up = EDGE_IN
    for index, paragraph in reversed(list(enumerate(paragraphs))):
        text = figure.text(
            style.MARGIN_LEFT / width,
            up / height,
            "",
            va="bottom",
            fontsize=style.FOOTER_PT,
            color=style.VERMILION if bold_first and index == 0 else style.GREY,
            fontweight="bold" if bold_first and index == 0 else "normal",
            gid=f"footer:{index}",
        )
        up += _fill(figure, text, one_line(paragraph)) + EDGE_IN / 2
    return up + (style.AXIS_PT + style.TICK_PT + 16) / 72


def renderer_of(figure: Figure) -> RendererAgg:
    """What measures text on the figure's canvas."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer: RendererAgg = canvas.get_renderer()  # type: ignore[no-untyped-call]
    return renderer


def fit_axes(figure: Figure, panels: Sequence[Axes], bottom_in: float, top_in: float) -> None:
    """Axes side by side between footer and header (heights in inches); margins grow with the tick labels."""
    width, height = figure.get_size_inches()
    lefts = [style.MARGIN_LEFT] * len(panels)
    for _ in range(2):  # first to learn how wide the tick labels are
        room = (width - sum(lefts) - style.MARGIN_RIGHT) / len(panels)
        edge, wanted = 0.0, list(lefts)
        for number, axes in enumerate(panels):
            left = edge + lefts[number]
            axes.set_position(
                (left / width, bottom_in / height, room / width, (height - bottom_in - top_in) / height)
            )
            extent = axes.yaxis.get_tightbbox(renderer_of(figure))
            if extent is not None:
                wanted[number] += max(0.0, EDGE_IN + edge - extent.x0 / figure.dpi)
            edge = left + room
        lefts = wanted


def _draw_legend(
    figure: Figure, entries: Sequence[Line2D | Patch], corner: tuple[float, float], columns: int
) -> Legend:
    """In as many columns as fit the figure's width."""
    for most in range(min(columns, len(entries)), 0, -1):
        rows = -(-len(entries) // most)
        count = -(-len(entries) // rows)  # no wider than these rows need, so that the last column is not ragged
        legend = figure.legend(
            handles=list(entries),
            loc="upper left",
            bbox_to_anchor=corner,
            ncols=count,
            borderaxespad=0,
            borderpad=0,
            handlelength=3.2,
            columnspacing=1.6,
            labelspacing=0.45,
        )
        extent = legend.get_window_extent(renderer_of(figure))
        if count == 1 or extent.x1 <= figure.bbox.x1 - style.MARGIN_RIGHT * figure.dpi:
            break
        legend.remove()
    return legend


def _fill(figure: Figure, text: Text, content: str) -> float:
    """Puts ``content`` into ``text``, wrapped to the figure's width; returns its height in inches."""
    room = (figure.get_size_inches()[0] - style.MARGIN_LEFT - style.MARGIN_RIGHT) * figure.dpi
    text.set_text(content)
    columns = len(content)
    while text.get_window_extent(renderer_of(figure)).width > room and columns > 8:
        columns = min(columns - 1, int(columns * room / text.get_window_extent(renderer_of(figure)).width) + 2)
        text.set_text("\n".join(textwrap.wrap(content, columns, max_lines=MAX_LINES, placeholder=" …")))
    return float(text.get_window_extent(renderer_of(figure)).height) / figure.dpi
