"""The public Python API on the committed sample."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ratematch as rm
from ratematch.errors import UserError
from ratematch.show.picture import Picture

SAMPLE = Path(__file__).parents[1] / "results" / "sample"


@pytest.fixture(scope="module")
def results() -> rm.LoadedResults:
    return rm.load_results(SAMPLE)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, ratematch; print(sorted({'pandas', 'numpy', 'matplotlib', 'pyarrow'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_loads_are_one_row_each_with_units_and_verdict(results: rm.LoadedResults) -> None:
    loads = results.loads
    assert len(loads) == len(results.measured) and loads["emulated"].all()
    assert set(loads["stage"]) == {"ctx", "gen", "ifb", "e2e"} and set(loads["mtp"]) == {0, 3}
    decoding = loads[loads["stage"] != "ctx"]
    assert (decoding["tok_s_user"] * decoding["tpot_mean_ms"]).to_numpy() == pytest.approx(1000.0)
    assert (loads["tok_s_gpu"] * loads["gpus"]).to_numpy() == pytest.approx(loads["tok_s"].to_numpy())


def test_requests_agree_with_the_figures_of_their_load(results: rm.LoadedResults) -> None:
    requests, loads = results.requests, results.loads
    assert len(requests) == loads["num_requests"].sum()
    row = loads[(loads["stage"] == "ifb") & (loads["concurrency"] == 32)].iloc[0]
    same = (
        (requests["stage"] == "ifb")
        & (requests["deployment"] == row["deployment"])
        & (requests["load"] == row["load"])
    )
    counted = requests[same & requests["counted"]]
    assert counted["ttft_ms"].mean() == pytest.approx(row["ttft_mean_ms"])


def test_match_takes_the_sweeps_limits_and_others_in_their_place(results: rm.LoadedResults) -> None:
    analysis = rm.match(results)
    assert analysis == results.match() == rm.match_results(results)
    strict = rm.fronts(rm.match(results, ttft_ms=150.0))
    free = rm.fronts(analysis)
    assert strict["tok_s_gpu"].max() < free["tok_s_gpu"].max()
    kinds = free.groupby("kind")["tok_s_user"]
    assert {"bound", "rate_matched", "end_to_end", "ifb"} == set(kinds.groups)
    assert kinds.apply(lambda column: column.is_monotonic_increasing).all()


def test_frames_of_an_analysis_hang_together(results: rm.LoadedResults) -> None:
    analysis = rm.match(results)
    parts = rm.gaps(analysis)
    lost = parts.groupby(["label", "concurrency"])["tok_s_gpu"].sum()
    whole = parts.groupby(["label", "concurrency"])[["ideal_tok_s_gpu", "measured_tok_s_gpu"]].first()
    assert lost.to_numpy() == pytest.approx((whole["ideal_tok_s_gpu"] - whole["measured_tok_s_gpu"]).to_numpy())
    assert rm.speedups(analysis)["step"].notna().any()
    assert rm.points(analysis)["on_front"].sum() == len(rm.fronts(analysis))
    told = rm.recommendations(analysis, [20, 50])
    assert list(told["at_tok_s_user"]) == [20, 50] and set(told["origin"]) == {"measured"}


def test_pictures_show_themselves_and_bring_their_data(results: rm.LoadedResults) -> None:
    analysis = rm.match(results)
    pictures: list[Picture] = [
        rm.plot_pareto(analysis),
        rm.plot_speedup(analysis),
        rm.plot_split(analysis),
        rm.plot_ctx(results, analysis),
        rm.plot_gen(results, analysis, "1024/64"),
        rm.plot_latency(results, analysis),
        rm.plot_slip(results, analysis),
        rm.plot_gap(analysis),
        rm.plot_figure(results, 11),
    ]
    for picture in pictures:
        assert picture._repr_png_().startswith(b"\x89PNG") and len(picture.data)
    with pytest.raises(UserError, match="no workload '1/1' in sample; there are: 1024/64"):
        rm.plot_pareto(analysis, "1/1")


def test_two_sweeps_side_by_side() -> None:
    found = rm.compare(SAMPLE, SAMPLE)
    assert rm.drift(found).empty and set(rm.changes(found)["kind"]) == {"end_to_end", "rate_matched", "ifb"}
    assert len(rm.plot_compare(found).data)
    with pytest.raises(UserError, match="no figure 8; there are: 9, 10"):
        rm.plot_figure(rm.load_results(SAMPLE), 8)


def test_unknown_names_are_attribute_errors_and_dir_lists_the_api() -> None:
    with pytest.raises(AttributeError, match="no_such"):
        rm.no_such  # type: ignore[attr-defined]  # noqa: B018
    assert {"load_results", "match", "plot_pareto", "fronts"} <= set(dir(rm))
