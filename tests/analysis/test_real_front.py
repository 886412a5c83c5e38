"""What is concluded of the real front in the repository, held against what an expert writes of its figures by hand.

``results/h200-qwen3-8b``: Qwen3-8B's shape on two H200s, vLLM 0.24 with NIXL, measured; published by ratematch.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from ratematch.analysis.analyze import analyze_inputs, read_inputs
from ratematch.analysis.verify import verify
from ratematch.cli import main
from ratematch.exchange.publish.known import Known
from ratematch.exchange.publish.scan import scan
from ratematch.match.points import Analysis, WorkloadAnalysis
from ratematch.match.recommend import recommend
from ratematch.report.verdict import make_card, name_deployment
from ratematch.show.headline import describe_gain
from ratematch.show.views.analysis import print_analysis
from ratematch.show.views.details import print_details
from ratematch.show.views.status import status_to_json
from ratematch.store.folder import Results
from ratematch.store.published import read_published

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "results" / "h200-qwen3-8b"
LARGE = "ctx1xTP1+block_size=128-gen1xTP1+block_size=128-mtp0"
SMALL = "ctx1xTP1+block_size=16-gen1xTP1+block_size=16-mtp0"

# Requests/s and TPOT (ms) of the pairs, by output length and requests in flight, as measured.
MEASURED = {
    (SMALL, "2048/256"): {16: (7.29, 7.28), 64: (14.09, 16.07), 128: (16.95, 27.75)},
    (LARGE, "2048/256"): {16: (9.00, 6.38), 64: (19.53, 9.75), 128: (20.14, 9.92)},
    (LARGE, "2048/1024"): {64: (5.61, 10.97), 128: (7.07, 17.45)},
}


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze_inputs(read_inputs(Results.open(FOLDER)))


def test_a_row_has_an_interval_where_the_noise_of_what_limits_it_is_known(short: WorkloadAnalysis) -> None:
    """That of the gen rates is not known here: a row at the limit of gen was "95 %: 1214 to 1214"."""
    for point in (*short.rate_matched, *short.ties):
        ends = point.tok_s_gpu_low, point.tok_s_gpu_high
        assert (None in ends) == (point.limit == "gen") and (None in ends or ends[0] < ends[1])
    assert {point.limit for point in short.rate_matched} == {"ctx", "gen"}


@pytest.fixture(scope="module")
def short(analysis: Analysis) -> WorkloadAnalysis:
    return next(workload for workload in analysis.workloads if workload.workload == "2048/256")


def test_the_folder_is_whole_real_small_and_names_nobody() -> None:
    results = Results.open(FOLDER)
    checked = verify(results)
    assert (checked.experiments, checked.loads, checked.missing, checked.complaints) == (9, 28, 0, ())
    published = read_published(FOLDER)
    assert published is not None and published.origins == ("real",) and len(published.records) == 14
    assert {part.experiment.model_path for part in results.now().experiments} == {"<model>"}
    files = [file for file in FOLDER.rglob("*") if file.is_file() and file.name != "derived.json"]
    assert sum(file.stat().st_size for file in files) < 2_000_000
    for experiment in [path for path in FOLDER.iterdir() if path.is_dir() and path.name != "report"]:
        assert scan(experiment, Known()) == []


def test_the_headline_is_the_line_between_points_and_says_where_there_are_none(short: WorkloadAnalysis) -> None:
    """IFB linear between (49.46, 2818) and (129, 1674) at 101 is 2077, and 2577 is 1.24 times it; steps said 6.35."""
    verdict = " ".join(describe_gain(short).split())
    assert verdict == (
        "Disaggregated serving gives 1.10 to 1.24 times the tok/s/GPU of IFB at equal tok/s/user (measured end to "
        "end): most at 101 tok/s/user, 1.24 times, least at 129, 1.10 times. IFB has no point between 49.5 and 129 "
        "tok/s/user: there it is read on the line between the two."
    )


@pytest.mark.parametrize(
    ("at", "deployment", "badge", "note"),
    [
        (20, "agg1xTP1-mtp0", "measured: aggregated serving wins here", ""),
        (
            50,
            "agg1xTP1-mtp0",
            "measured: aggregated serving wins here",
            "Its users get 1.1% less than 50, within noise.",
        ),
        (
            100,
            "1 × TP1 ctx + 1 × TP1 gen, no MTP, block_size=128",
            "measured end to end",
            "IFB has no point between 49.5 and 129 tok/s/user; it is read on the line between them.",
        ),
        (
            115,
            "agg1xTP1-mtp0",
            "measured: aggregated serving, because no end-to-end run is near",
            "On the line between its runs with 64 and 16 requests in flight, 1 × TP1 ctx + 1 × TP1 gen, no MTP, "
            "block_size=128 would give 2192 tok/s/GPU, 31% more; nobody measured there: run a load between them "
            "before you choose.",
        ),
    ],
)  # fmt: skip
def test_cards_recommend_what_was_measured_and_say_what_was_not(
    short: WorkloadAnalysis, at: float, deployment: str, badge: str, note: str
) -> None:
    card = make_card(recommend(short, at), None)
    assert (card["deployment"].replace("\N{NO-BREAK SPACE}", " "), card["badge"]) == (deployment, badge)
    assert card["note"].replace("\N{NO-BREAK SPACE}", " ") == note


def test_one_deployment_has_one_name_and_block_size_is_in_it(analysis: Analysis, short: WorkloadAnalysis) -> None:
    labels = {point.label for workload in analysis.workloads for point in workload.end_to_end}
    assert labels == {LARGE}
    point = recommend(short, 100).point
    assert point is not None and "block_size=128" in name_deployment(point)


def test_status_calls_them_the_same() -> None:
    """The ctx and gen servers of the second sweep, which had no axis of block sizes, are those of the first."""
    names = [row["experiment"] for row in status_to_json(Results.open(FOLDER))["experiments"]]
    assert len(set(names)) == 9 and "ctx-2048-1-ctx1xTP1+block_size=128-mtp0" in names
    assert all("block_size=" in name for name in names if not name.startswith("ifb"))


def test_the_gap_is_the_transfer_with_small_blocks_and_none_of_its_parts_is_larger_than_it(
    short: WorkloadAnalysis,
) -> None:
    for gap in short.gaps:
        parts = {part.name: part.tok_s_gpu for part in gap.parts}
        assert sum(parts.values()) == pytest.approx(gap.ideal - gap.end_to_end, rel=1e-6)
        assert all(part <= gap.ideal - gap.end_to_end + 1e-6 for part in parts.values())
        posted = parts["KV transfer posted between decode steps"]
        if gap.label == SMALL and gap.concurrency > 32:
            assert posted == max(parts.values()) and posted > 300
        elif gap.label == LARGE:
            assert posted < 80
    (note,) = [note for note in short.notes if "the KV transfer costs" in note]
    assert SMALL in note and "541 of 2,599 tok/s/GPU" in note and "2,546 (+41%)" in note and "9,216 pieces" in note


def test_predictions_are_within_five_per_cent_of_the_rate_and_ten_of_tpot(analysis: Analysis) -> None:
    seen = 0
    for workload in analysis.workloads:
        osl = float(workload.workload.split("/")[1])
        assert workload.calibration is not None
        for row in workload.calibration.rows:
            concurrency = round(row.concurrency)
            req_s, tpot_ms = MEASURED[row.label, workload.workload][concurrency]
            assert row.tok_s_gpu * 2 / osl == pytest.approx(req_s, rel=2e-3)
            rate, tpot = (0.05, 0.10) if row.label == SMALL else (0.04, 0.08)
            assert row.tok_s_gpu_before * 2 / osl == pytest.approx(req_s, rel=rate)
            assert row.tpot_before_ms == pytest.approx(tpot_ms, rel=tpot)
            seen += 1
    assert seen == 8


def test_calibration_is_fitted_pair_by_pair_and_a_piece_is_what_the_servers_counted(short: WorkloadAnalysis) -> None:
    calibration = short.calibration
    assert calibration is not None and len(calibration.pairs) == 2
    for pair in calibration.pairs:
        assert 0.95 < pair.ctx <= 1.0 and 1.0 < pair.gen < 1.08
    assert calibration.piece_us == pytest.approx(3.35, abs=0.01)


def test_the_page_quotes_what_pareto_prints(analysis: Analysis) -> None:
    out = io.StringIO()
    console = Console(file=out, width=100)
    print_analysis(analysis, console)
    print_details(analysis, console, request_rate=None, limits="")
    printed = " ".join(out.getvalue().split())
    page = (ROOT / "docs" / "rate-matching.md").read_text("utf-8")
    section = page[page.index("### The same from a results folder") :]
    (block,) = re.findall(r"```text\n(.*?)```", section, flags=re.DOTALL)[:1]
    for paragraph in re.split(r"\n(?=note:|posting)", block.strip()):
        assert " ".join(paragraph.split()) in printed


@pytest.mark.parametrize(
    ("name", "loads", "records"), [("h200-qwen3-4b", 7, 4), ("h200-qwen3-14b", 7, 4), ("h200-qwen3-32b", 9, 5)]
)
def test_the_folders_of_one_gpu_are_whole_real_small_and_name_nobody(name: str, loads: int, records: int) -> None:
    folder = ROOT / "results" / name
    checked = verify(Results.open(folder))
    assert (checked.loads, checked.missing, checked.complaints) == (loads, 0, ())
    published = read_published(folder)
    assert published is not None and published.origins == ("real",) and len(published.records) == records
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "derived.json"]
    assert sum(file.stat().st_size for file in files) < 200_000
    for experiment in [path for path in folder.iterdir() if path.is_dir() and path.name != "report"]:
        assert scan(experiment, Known()) == []


def test_valid_loads_of_which_no_deployment_follows_are_not_called_invalid(tmp_path: Path) -> None:
    """A ctx and a gen server of one GPU each, and a limit of one GPU: nothing is wrong with any load."""
    words = (str(ROOT / "results" / "h200-qwen3-14b"), "-o", str(tmp_path / "out"))
    done = CliRunner().invoke(main, ["pareto", *words])
    assert done.exit_code == 3 and done.stderr.count("\n") == 1
    assert "its loads are valid, and no point follows from them: no deployment of up to 1 GPU;" in done.stderr
    assert done.stderr.endswith("; --max-gpus plans larger ones\n")
    assert CliRunner().invoke(main, ["pareto", *words, "--max-gpus", "2"]).exit_code == 0
