"""What is plotted: the data, the stamp, the words; and that odd inputs do not stop it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ratematch.show import style
from ratematch.show.picture import save_figure
from ratematch.show.plots.pareto import FRONT_KINDS, gap_band, plot_pareto
from ratematch.show.plots.speedup import plot_speedup

from .invented import (
    draw,
    make_analysis,
    make_crowded,
    make_empty,
    make_few,
    make_hostile,
    make_many,
    make_point,
    write_plots,
)


def _line(figure: Figure, gid: str) -> Line2D:
    (line,) = [line for line in figure.axes[0].lines if line.get_gid() == gid]
    return line


def _words(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in (*figure.texts, *figure.axes[0].texts)]


def test_front_lines_hold_exactly_the_points_of_the_fronts() -> None:
    workload, figure = make_many(), draw(make_many)
    for kind in FRONT_KINDS:
        front = getattr(workload, kind)
        line = _line(figure, f"front:{kind}")
        assert list(line.get_xdata()) == [point.tok_s_user for point in front]
        assert list(line.get_ydata()) == [point.tok_s_gpu for point in front]


def test_thin_curves_hold_every_plan_and_measured_row_one_line_each_deployment() -> None:
    workload, figure = make_many(), draw(make_many)
    curves = [line for line in figure.axes[0].lines if str(line.get_gid()).startswith("curve:")]
    drawn = {xy for curve in curves for xy in zip(curve.get_xdata(), curve.get_ydata(), strict=True)}
    rows = [*workload.plans, *workload.measured]
    assert drawn == {(point.tok_s_user, point.tok_s_gpu) for point in rows}
    assert len(curves) == len({(point.kind, point.label) for point in rows})


def test_all_points_lie_inside_the_axes() -> None:
    for make in (make_many, make_few, make_crowded):
        workload, axes = make(), draw(make).axes[0]
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert bottom == 0
        for point in (*workload.plans, *workload.measured, *workload.bound):
            assert left <= point.tok_s_user < right and bottom <= point.tok_s_gpu < top


def test_hollow_markers_are_the_points_without_mtp_and_only_where_both_occur() -> None:
    mixed = make_many()
    hollow = _line(draw(make_many), "mtp-off:rate_matched")
    assert list(hollow.get_xdata()) == [point.tok_s_user for point in mixed.rate_matched if point.mtp == 0]
    assert not [line for line in draw(make_few).axes[0].lines if str(line.get_gid()).startswith("mtp-off")]


def test_fronts_differ_in_colour_marker_and_line_style() -> None:
    looks = [style.KINDS[kind] for kind in FRONT_KINDS]
    for name in ("colour", "marker", "linestyle"):
        assert len({getattr(look, name) for look in looks}) == len(looks)


def test_gap_band_follows_both_fronts_on_their_overlap() -> None:
    upper = [make_point("rate_matched", x, y, "a") for x, y in ((10, 100), (30, 60), (50, 20))]
    lower = [make_point("end_to_end", x, y, "a") for x, y in ((20, 70), (40, 30))]
    x, high, low = gap_band(upper, lower)
    np.testing.assert_allclose(x, [20, 30, 40])
    np.testing.assert_allclose(high, [80, 60, 40])
    np.testing.assert_allclose(low, [70, 50, 30])
    assert gap_band(upper, lower[:1])[0].size == 0
    apart = [make_point("end_to_end", x, 5, "a") for x in (60, 70)]
    assert gap_band(upper, apart)[0].size == 0


def test_emulated_is_stamped_on_the_figure_and_in_the_svg_text(tmp_path: Path) -> None:
    figure = draw(make_few)
    (stamp,) = [text for text in figure.texts if text.get_gid() == "emulated"]
    assert stamp.get_text() == style.STAMP_TEXT and "EMULATED" in style.STAMP_TEXT
    _, svg = save_figure(figure, tmp_path / "plot")
    assert style.STAMP_TEXT in svg.read_text("utf-8")


def test_real_measurements_are_not_stamped_but_one_emulated_workload_is(tmp_path: Path) -> None:
    real = make_analysis(make_many(), emulated=False)
    (workload,) = real.workloads
    for figure in (plot_pareto(workload, real), plot_speedup(workload, real)):
        assert not any("EMULATED" in words for words in _words(figure))
    emulated = replace(workload, origin="emulated")
    assert any("EMULATED" in words for words in _words(plot_pareto(emulated, real)))
    assert any("EMULATED" in words for words in _words(plot_speedup(emulated, real)))


def test_title_axes_and_footer_say_what_is_shown() -> None:
    figure = draw(make_many)
    words = " ".join(_words(figure))
    for part in ("DeepSeek-R1", "GB200", "1024/64", "quickstart", "trtllm-serve 1.2", "1000 / TPOT", "all GPUs"):
        assert part in words
    axes = figure.axes[0]
    assert "tok/s/user" in axes.get_xlabel() and "tok/s/GPU" in axes.get_ylabel()


def test_the_notation_of_spread_output_lengths_is_explained_only_where_used() -> None:
    few = replace(make_few(), workload="8192/1024~0.8")
    assert "output lengths spread" in " ".join(_words(plot_pareto(few, make_analysis(few))))
    assert "output lengths spread" not in " ".join(_words(draw(make_few)))


def test_empty_and_lone_fronts_say_what_is_missing(tmp_path: Path) -> None:
    few, empty = make_few(), make_empty()
    words = " ".join(_words(draw(make_few)))
    assert "end-to-end front has one point only" in words and "IFB front has" not in words
    words = " ".join(_words(draw(make_empty)))
    assert "No valid point for 128/128" in words and "1 of 64 requests failed" in words and "1 more" in words
    assert "rate-matched front has no point" in words
    only_bound = replace(few, rate_matched=(), end_to_end=(), ifb=(), plans=(), measured=())
    assert len(write_plots(make_analysis(few, empty, only_bound), tmp_path)) == 9


def test_speedup_plot_holds_the_rows_and_is_written_only_where_defined(tmp_path: Path) -> None:
    many = make_many()
    line = _line(plot_speedup(many, make_analysis(many)), "speedup:end_to_end:step")
    rows = [row for row in many.speedups if row.kind == "end_to_end"]
    assert list(line.get_xdata()) == [row.tok_s_user for row in rows]
    assert list(line.get_ydata()) == [row.step for row in rows]
    undefined = replace(make_few(), speedups=tuple(replace(row, step=None, linear=None) for row in many.speedups))
    names = [path.name for path in write_plots(make_analysis(many, undefined), tmp_path)]
    assert names == [
        *("pareto-1024-64.png", "pareto-1024-64.svg", "pareto-1024-64.csv"),
        *("speedup-1024-64.png", "speedup-1024-64.svg", "speedup-1024-64.csv"),
        *("pareto-8192-1024.png", "pareto-8192-1024.svg", "pareto-8192-1024.csv"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_hostile_names_stay_text_and_inside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "plots"
    paths = write_plots(make_analysis(make_hostile()), folder)
    assert all(path.parent == folder for path in paths)
    (svg,) = [path for path in paths if path.suffix == ".svg"]
    root = ElementTree.fromstring(svg.read_text("utf-8"))
    tags = {element.tag.rsplit("}", 1)[-1] for element in root.iter()}
    assert "text" in tags and not tags & {"script", "b"}
    texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]
    assert "<script>alert(1)</script>" in texts
    assert "[bold]&amp;" in texts and r"$\frac{1}$" in texts
    assert not re.search("[\x00-\x08\x1b\u202e]", " ".join(texts))


def test_svg_ids_are_unique(tmp_path: Path) -> None:
    _, svg = save_figure(draw(make_many), tmp_path / "plot")
    ids = [
        element.get("id") for element in ElementTree.fromstring(svg.read_text("utf-8")).iter() if element.get("id")
    ]
    assert len(ids) == len(set(ids))


def test_the_same_analysis_gives_the_same_bytes_and_no_date(tmp_path: Path) -> None:
    first = write_plots(make_analysis(make_few()), tmp_path / "one")
    second = write_plots(make_analysis(make_few()), tmp_path / "two")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert "dc:date" not in first[1].read_text("utf-8")


def test_the_users_matplotlib_settings_neither_matter_nor_change(tmp_path: Path) -> None:
    (before, _, _) = write_plots(make_analysis(make_few()), tmp_path / "one")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9}):
        settings = dict(matplotlib.rcParams)
        (after, _, _) = write_plots(make_analysis(make_few()), tmp_path / "two")
        assert dict(matplotlib.rcParams) == settings
    assert before.read_bytes() == after.read_bytes()


def test_log_axis_and_long_or_foreign_names_can_be_drawn(tmp_path: Path) -> None:
    workload = make_many()
    analysis = replace(make_analysis(workload), model="模型" + "M" * 150, sweep="s" * 900)
    figure = plot_pareto(workload, analysis, log_y=True)
    assert figure.axes[0].get_yscale() == "log"
    png, svg = save_figure(figure, tmp_path / "plot")
    assert png.read_bytes().startswith(b"\x89PNG") and "模型" in svg.read_text("utf-8")
    assert figure.axes[0].get_position().height > 0.4


def test_a_failed_write_keeps_the_old_plot_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = draw(make_few)
    (png, _) = save_figure(figure, tmp_path / "plot")
    content = png.read_bytes()
    names = sorted(path.name for path in tmp_path.iterdir())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ratematch.store.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_figure(figure, tmp_path / "plot")
    assert png.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == names
