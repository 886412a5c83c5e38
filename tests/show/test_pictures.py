"""What the further pictures draw: the data behind them, their gids, and that nothing is drawn from nothing."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ratematch.match.figures import collect_figures
from ratematch.match.points import Gap, GapPart, Speedup
from ratematch.measure.measured import Measured
from ratematch.measure.records import RequestRecord
from ratematch.plan.deployment import Deployment
from ratematch.plan.load import Concurrency, Constraints
from ratematch.show.plots.cdfs import LoadRecords, picture_cdf, picture_slip
from ratematch.show.plots.gap import picture_gap, sum_up_causes
from ratematch.show.plots.ladders import picture_ctx, picture_gen
from ratematch.show.plots.pareto import picture_pareto
from ratematch.show.plots.presets import PRESETS, name_point, picture_preset
from ratematch.show.plots.speedup import picture_speedup, plot_speedup
from ratematch.show.plots.splits import picture_split
from tests.support.invented import WORKLOAD, constant, experiment, group, measurement, records

from .invented import make_analysis, make_empty, make_few, make_many, make_point

MANY = make_many()
PARTS = (GapPart("integer rounding and load", 30.0), GapPart("KV transfer", 15.0), GapPart("residual", -5.0))


def _gap(label: str = "ctx2xTEP4-gen1xDEP8-mtp1", parts: tuple[GapPart, ...] = PARTS) -> Gap:
    return Gap(
        label, 50.0, 100.0, 120.0, 0.83, concurrency=12.0, ideal=100 + sum(p.tok_s_gpu for p in parts), parts=parts
    )


def _ladder(stage: str, mapping: str, mtp: int, rows: list[tuple[int, float, float, float | None]]) -> list[Measured]:
    """(concurrency, requests/s, TTFT ms, TPOT ms) rows of one server."""
    role = {"ctx": "ctx", "gen": "gen"}[stage]
    deployment = Deployment(**{role: group(role, mapping, 1, mtp)})
    return [
        Measured(
            experiment(stage, deployment, WORKLOAD),  # type: ignore[arg-type]
            Concurrency(c, 100),
            measurement(req_s=req_s, osl=201 if tpot else 1, ttft_ms=ttft, tpot_ms=tpot),
        )
        for c, req_s, ttft, tpot in rows
    ]


def test_a_picture_saves_png_svg_and_the_csv_behind_it(tmp_path: Path) -> None:
    picture = picture_pareto(MANY, make_analysis(MANY), "pareto")
    paths = picture.save(tmp_path)
    assert [path.name for path in paths] == ["pareto.png", "pareto.svg", "pareto.csv"]
    rows = list(csv.DictReader(paths[2].read_text(encoding="utf-8").splitlines()))
    on_front = [(float(row["tok_s_user"]), float(row["tok_s_gpu"])) for row in rows if row["on_front"] == "true"]
    fronts = (*MANY.rate_matched, *MANY.end_to_end, *MANY.ifb, *MANY.bound)
    assert sorted(on_front) == sorted((point.tok_s_user, point.tok_s_gpu) for point in fronts)
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert len(picture.data) == len(rows)


def test_speedup_band_is_the_interval_of_the_rows_and_is_there_only_when_known() -> None:
    rows = tuple(replace(row, linear_low=row.linear and row.linear * 0.9, linear_high=row.linear and row.linear * 1.1)
                 for row in MANY.speedups)  # fmt: skip
    picture = picture_speedup(replace(MANY, speedups=rows), make_analysis(MANY), "speedup")
    assert picture is not None
    band = next(c for c in picture.figure.axes[0].collections if c.get_gid() == "speedup:end_to_end:interval")
    corners = band.get_paths()[0].vertices
    own = [row for row in rows if row.kind == "end_to_end"]
    assert np.min(corners[:, 1]) == pytest.approx(min(row.linear_low or 0 for row in own))
    assert np.max(corners[:, 1]) == pytest.approx(max(row.linear_high or 0 for row in own))
    plain = picture_speedup(MANY, make_analysis(MANY), "speedup")
    assert plain is not None and not plain.figure.axes[0].collections
    assert any("not known here" in text.get_text().replace("\n", " ") for text in plain.figure.texts)
    assert picture_speedup(replace(MANY, speedups=()), make_analysis(MANY), "speedup") is None


def test_intervals_of_points_are_drawn_where_they_are_known() -> None:
    front = tuple(replace(p, tok_s_gpu_low=p.tok_s_gpu - 5, tok_s_gpu_high=p.tok_s_gpu + 7) for p in MANY.end_to_end)
    picture = picture_pareto(replace(MANY, end_to_end=front), make_analysis(MANY), "pareto")
    (bars,) = [c for c in picture.figure.axes[0].collections if str(c.get_gid()) == "interval:end_to_end"]
    drawn = sorted((path.vertices[0][1], path.vertices[1][1]) for path in bars.get_paths())
    np.testing.assert_allclose(drawn, sorted((p.tok_s_gpu - 5, p.tok_s_gpu + 7) for p in front))


def test_the_causes_of_the_gap_are_summed_named_and_drawn_part_by_part() -> None:
    gaps = (_gap(), _gap("ctx1xTEP4-gen1xDEP8-mtp1", (GapPart("KV transfer", 20.0),)))
    assert sum_up_causes(gaps) == [
        ("KV transfer", pytest.approx(35 / 60)),
        ("integer rounding and load", pytest.approx(0.5)),
        ("residual", pytest.approx(-5 / 60)),
    ]
    workload = replace(MANY, gaps=gaps)
    picture = picture_gap(workload, make_analysis(workload), "gap")
    assert picture is not None
    bars = {bar.get_gid(): bar for bar in picture.figure.axes[0].patches}
    assert bars["measured:0"].get_width() == 100.0
    assert (bars["part:0:0"].get_x(), bars["part:0:0"].get_width()) == (100.0, 30.0)
    assert (bars["part:0:1"].get_x(), bars["part:0:1"].get_width()) == (130.0, 15.0)
    assert bars["part:0:2"].get_width() == -5.0, "a gain goes the other way"
    assert [row["tok_s_gpu"] for row in picture.rows] == [30.0, 15.0, -5.0, 20.0]
    legend = picture_pareto(workload, make_analysis(workload), "pareto").figure.legends[0]
    # Shares of all that is lost, 65; of the 60 left after the gain they would be 58 and 50 %: more than the whole.
    assert any("54% KV transfer, 46% integer rounding" in text.get_text() for text in legend.get_texts())
    assert picture_gap(MANY, make_analysis(MANY), "gap") is None
    assert sum_up_causes((_gap(parts=(GapPart("residual", -3.0),)),)) == []


def test_the_split_counts_gpus_of_instances_not_instances() -> None:
    point = make_point("rate_matched", 40, 300, "ctx2xTEP4-gen1xDEP8-mtp1", ctx=2, gen=1)
    few = replace(make_few(), rate_matched=(point,), end_to_end=())
    picture = picture_split(few, make_analysis(few), "split")
    assert picture is not None
    (row,) = picture.rows
    assert (row["ctx_gpus"], row["gen_gpus"], row["ctx_share"]) == (8, 8, 0.5)
    (line,) = [line for line in picture.figure.axes[0].lines if line.get_gid() == "split:rate_matched"]
    assert list(line.get_ydata()) == [0.5]
    empty = make_empty()
    assert picture_split(empty, make_analysis(empty), "split") is None


def test_ctx_rates_are_per_gpu_and_rows_over_the_limit_are_hollow() -> None:
    rows = _ladder("ctx", "TEP4", 0, [(1, 8.0, 100.0, None), (4, 20.0, 200.0, None), (16, 24.0, 700.0, None)])
    rows += _ladder("ctx", "DEP4", 1, [(1, 6.0, 150.0, None)])
    limits = Constraints(ttft_ms=500.0)
    figures, _ = collect_figures(rows, limits)
    picture = picture_ctx(figures, limits, make_analysis(MANY), "1024/201", "ctx")
    assert picture is not None
    rate, ttft = picture.figure.axes
    (line,) = [line for line in rate.lines if len(line.get_xdata()) == 3]
    assert list(line.get_xdata()) == [1, 4, 16] and list(line.get_ydata()) == [2.0, 5.0, 6.0]
    (over,) = [line for line in ttft.lines if str(line.get_gid()).startswith("over:")]
    assert list(over.get_ydata()) == [700.0]
    (limit,) = [line for line in ttft.lines if line.get_gid() == "limit"]
    assert set(limit.get_ydata()) == {500.0}
    assert [row["within"] for row in picture.rows] == [True, True, True, False]
    assert picture_ctx([], limits, make_analysis(MANY), "1024/201", "ctx") is None


def test_gen_curves_are_one_a_mapping_and_mtp_and_differ_without_colour() -> None:
    rows = _ladder("gen", "TEP4", 0, [(1, 0.5, 0.0, 10.0), (8, 2.0, 0.0, 20.0)])
    rows += _ladder("gen", "TEP4", 3, [(1, 1.0, 0.0, 5.0), (8, 3.0, 0.0, 12.5)])
    rows += _ladder("gen", "DEP8", 0, [(8, 4.0, 0.0, 10.0)])
    figures, _ = collect_figures(rows, Constraints())
    picture = picture_gen(figures, make_analysis(MANY), "1024/201", "gen")
    assert picture is not None
    lines = picture.figure.axes[0].lines
    assert [list(line.get_xdata()) for line in lines] == [[100.0], [100.0, 50.0], [200.0, 80.0]]
    assert list(lines[1].get_ydata()) == pytest.approx([0.5 * 201 / 4, 2 * 201 / 4])
    looks = {(line.get_marker(), str(line.get_linestyle()), repr(line._dash_pattern)) for line in lines}
    assert len(looks) == 3


def _answers(late_ms: float = 0.0) -> tuple[RequestRecord, ...]:
    requests = records(4)
    for k, record in enumerate(requests):
        assert record.sent_ns is not None and record.first_token_ns is not None
        record.intended_ns = int(record.sent_ns - late_ms * 1e6)
        record.first_token_ns += k * 10_000_000
    return tuple(requests)


def test_cdfs_rise_to_one_at_the_slowest_request_and_count_from_the_due_instant_in_open_loop() -> None:
    closed = LoadRecords("ifb", "agg1xTEP8-mtp0", "c4", _answers())
    open_loop = LoadRecords("end_to_end", "ctx1xTEP4-gen1xDEP8-mtp0", "poisson2", _answers(50.0), "intended")
    picture = picture_cdf([open_loop, closed], make_analysis(MANY), "1024/5", "latency")
    assert picture is not None
    ttft = {line.get_gid(): line for line in picture.figure.axes[0].lines if line.get_gid()}
    line = ttft["cdf:ifb:0:ttft_ms"]
    assert list(line.get_xdata()) == pytest.approx([100, 110, 120, 130]) and list(line.get_ydata())[-1] == 1.0
    assert list(ttft["cdf:end_to_end:0:ttft_ms"].get_xdata()) == pytest.approx([150, 160, 170, 180])
    rows = [row for row in picture.rows if row["kind"] == "ifb" and row["metric"] == "ttft_ms"]
    assert rows[0]["ms"] == pytest.approx(100) and rows[-1]["ms"] == pytest.approx(130) and rows[-1]["share"] == 1.0
    assert picture_cdf([LoadRecords("ifb", "x", "c1", ())], make_analysis(MANY), "1024/5", "latency") is None


def test_slip_shows_median_and_p99_of_every_load_at_its_rate() -> None:
    (row,) = _ladder("gen", "TEP4", 0, [(8, 2.0, 0.0, 20.0)])
    late = replace(row, measurement=replace(row.measurement, send_lag_ms=constant(2.0, 5.0)))
    picture = picture_slip([late], make_analysis(MANY), "1024/201", "slip")
    assert picture is not None
    dots = {line.get_gid(): line for line in picture.figure.axes[0].lines}
    assert (list(dots["slip:gen:slip_p50_ms"].get_xdata()), list(dots["slip:gen:slip_p50_ms"].get_ydata())) == (
        [2.0],
        [2.0],
    )
    assert list(dots["slip:gen:slip_p99_ms"].get_ydata()) == [10.0]
    assert picture_slip([row], make_analysis(MANY), "1024/201", "slip") is None


@pytest.mark.parametrize("number", sorted(PRESETS))
def test_every_figure_of_the_study_draws_its_fronts_and_no_other(number: int) -> None:
    preset = PRESETS[number]
    key = 3 if preset.split_mtp else None
    picture = picture_preset(preset, {key: make_analysis(MANY)}, MANY.workload)
    fronts = {kind: getattr(MANY, kind) for kind in preset.kinds}
    assert {row["kind"] for row in picture.rows} == set(fronts)
    for line in picture.figure.axes[0].lines:
        xs = list(line.get_xdata())
        assert xs in [[point.tok_s_user for point in front] for front in fronts.values()]
    assert any(f"figure {number}" in text.get_text().replace("\n", " ") for text in picture.figure.texts)
    assert any(text.get_gid() == "emulated" for text in picture.figure.texts)


def test_points_are_called_as_in_the_study() -> None:
    point = make_point("end_to_end", 40, 300, "x", mtp=3, ctx=1, gen=2)
    assert name_point("bars", point) == "CTX=1xTEP-4|GEN=2xDEP-8"
    assert name_point("counts", point) == "c1tep4_g2dep8"
    assert name_point("plain", point) == "ctx1tep4-gen2dep8-mtp3"
    assert name_point("counts", replace(point, kind="bound", ratio="9/2")) == "ctx/gen=4.5"
    assert name_point("counts", make_point("ifb", 40, 300, "agg1xTEP8-mtp0")) == "tep8"


def test_a_legend_of_many_curves_is_by_mapping_and_by_mtp() -> None:
    rows = [
        row
        for mapping in ("DEP16", "DEP4", "TEP8", "TEP4")
        for mtp in range(4)
        for row in _ladder("gen", mapping, mtp, [(1, 0.5 + mtp, 0.0, 10.0), (8, 2.0 + mtp, 0.0, 20.0)])
    ]
    figures, _ = collect_figures(rows, Constraints())
    picture = picture_gen(figures, make_analysis(MANY), "1024/201", "gen")
    assert picture is not None and len(picture.figure.axes[0].lines) == 16
    words = [text.get_text() for text in picture.figure.legends[0].get_texts()]
    assert words == ["DEP4", "DEP16", "TEP4", "TEP8", "no MTP", "MTP 1", "MTP 2", "MTP 3"]
    assert not [text for text in picture.figure.axes[0].texts if text.get_gid() == "in-flight"]


def test_the_gap_is_shaded_only_where_the_runs_stay_below_the_prediction() -> None:
    below, above = ([replace(p, tok_s_gpu=p.tok_s_gpu * f) for p in MANY.rate_matched] for f in (0.8, 1.2))
    half = len(MANY.rate_matched) // 2
    mixed = tuple(replace(p, kind="end_to_end") for p in (*above[:half], *below[half:]))
    figure = picture_pareto(replace(MANY, end_to_end=mixed), make_analysis(MANY), "pareto").figure
    (band,) = [c for c in figure.axes[0].collections if c.get_gid() == "gap"]
    shaded = np.concatenate([path.vertices for path in band.get_paths()])
    assert shaded[:, 0].min() > MANY.rate_matched[half - 1].tok_s_user


def test_the_legend_of_the_gap_has_the_parts_that_are_drawn_each_in_its_own_colour() -> None:
    few = (_gap(parts=(GapPart("router", 4.0), GapPart("gen queue", 0.0), GapPart("ctx queue", 6.0))),)
    many = (_gap(parts=(GapPart("ctx queue", 6.0), GapPart("KV transfer", 3.0), GapPart("router", 4.0))),)
    looks = []
    for gaps in (few, many):
        workload = replace(MANY, gaps=gaps)
        picture = picture_gap(workload, make_analysis(workload), "gap")
        assert picture is not None
        legend = picture.figure.legends[0]
        patches = zip(legend.get_texts(), legend.get_patches(), strict=False)
        looks.append({text.get_text(): (patch.get_facecolor(), patch.get_hatch()) for text, patch in patches})
    parts = set(looks[0]) - {"measured end to end, emulated"}
    assert parts == {"ctx queue", "router"}, "nothing is lost to the gen queue"
    assert looks[0].items() <= looks[1].items(), "a part looks the same in every picture"


def test_the_step_reading_does_not_set_the_scale_of_the_speed_up() -> None:
    """Beside a hole in the IFB front it says sevenfold, where the line between its points says 1.2."""
    rows = tuple(
        Speedup("rate_matched", 100.0 + 10 * k, step, 1.2, linear_low=None, linear_high=None)
        for k, step in enumerate((0.8, 6.7, 6.7))
    )
    workload = replace(MANY, speedups=rows)
    figure = plot_speedup(workload, make_analysis(workload))
    assert figure.axes[0].get_ylim()[1] < 3
    assert any("step goes up to 6.70, above the frame" in " ".join(text.get_text().split()) for text in figure.texts)
