"""What an earlier version wrote or queued goes on working: results, jobs in Slurm's queue, names of processes.

The files are in ``tests/golden`` and are never written again (``tests/golden/results_v1/README.md``).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from submitit.core.utils import DelayedSubmission

import ratematch as rm
from ratematch.__main__ import main
from ratematch.errors import DamagedFile
from tests.support.sites import analyse, sweep_inside

GOLDEN = Path(__file__).parent / "golden"
RESULTS = GOLDEN / "results_v1"
EXPECTED: dict[str, Any] = json.loads((RESULTS / "expected.json").read_text())
SAMPLE = Path(__file__).parents[1] / "results" / "sample"

QUEUED = "ctx-1024-1-ctx1xDEP4-mtp0-b1f32971cd"
"""The experiment that ``queued_job_v1.pkl`` was to measure."""

FIGURES = (
    *("kind", "label", "ctx", "gen", "mtp", "gpus", "concurrency", "req_s", "tok_s", "tok_s_user", "tok_s_gpu"),
    *("ttft_ms", "tpot_ms", "osl", "limit", "ratio"),
)
"""Of each point of a front. Others may be added, or mended (``little`` of planned rows)."""
KINDS = ("bound", "rate_matched", "end_to_end", "ifb")
ABOUT = ("model", "gpu", "engine", "emulated", "simulated")


def run(*argv: str | Path) -> dict[str, Any]:
    done = CliRunner().invoke(main, [str(word) for word in argv])
    assert done.exit_code == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return rows


def read_figures(results: Path) -> dict[str, Any]:
    """Fronts and speed-ups as ``import ratematch as rm`` gives them."""
    analysis = rm.load_results(results).match()
    return {"fronts": rows_of(rm.fronts(analysis)[list(FIGURES)]), "speedups": rows_of(rm.speedups(analysis))}


def read_state(results: Path) -> dict[str, Any]:
    """Of ``status --json``: what became of each experiment, and what it cost."""
    status = run("status", results, "--json")
    keys = ("folder", "stage", "mode", "state", "loads", "loads_done", "gpu_hours", "cause", "remedy", "measured")
    return {
        **{key: status[key] for key in ("states", "loads", "loads_done", "gpu_hours", "nodes_left_out")},
        "experiments": [{key: each[key] for key in keys} for each in status["experiments"]],
    }


def assert_all_there(expected: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Rows may be added (speed-ups where they are largest and smallest), none may be gone or differ. Intervals were
    mended: those of short closed loads came from windows whose tail is empty."""
    places = [row["tok_s_user"] for row in expected]
    kept = [row for row in rows if any(row["tok_s_user"] == pytest.approx(place, rel=1e-9) for place in places)]
    assert [without_intervals(row) for row in kept] == close([without_intervals(row) for row in expected])


def without_intervals(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.endswith(("_low", "_high"))}


def close(content: Any) -> Any:
    """The same with numbers that need not be equal to the last bit: sums may be added up in another order."""
    match content:
        case float():
            return pytest.approx(content, rel=1e-9)
        case dict():
            return {key: close(each) for key, each in content.items()}
        case list():
            return [close(each) for each in content]
        case _:
            return content


@pytest.mark.parametrize("name", ["adaptive", "kinds", "imported"])
def test_results_of_the_first_format_give_the_figures_they_gave(name: str) -> None:
    figures = read_figures(RESULTS / name)
    assert figures["fronts"] == close(EXPECTED[name]["figures"]["fronts"])
    assert_all_there(EXPECTED[name]["figures"]["speedups"], figures["speedups"])
    assert read_state(RESULTS / name) == close(EXPECTED[name]["status"])


def test_the_sample_gives_the_figures_it_gave() -> None:
    """Written before experiments said whether they are simulated, and before loads kept what Prometheus told."""
    figures = read_figures(SAMPLE)
    assert figures["fronts"] == close(EXPECTED["sample"]["fronts"])
    assert_all_there(EXPECTED["sample"]["speedups"], figures["speedups"])


def test_pareto_prints_the_figures_it_printed(tmp_path: Path) -> None:
    analysis = analyse(tmp_path, str(RESULTS / "adaptive"), "-o", str(tmp_path / "report"))
    (workload,) = analysis["workloads"].values()
    points = [{key: point[key] for key in FIGURES} for front in KINDS for point in workload[front]]
    assert points == close(EXPECTED["adaptive"]["pareto"])
    assert {key: analysis[key] for key in ABOUT} == EXPECTED["adaptive"]["about"]


def test_records_of_the_first_format_are_read() -> None:
    requests = rm.load_results(RESULTS / "kinds").requests
    assert len(requests) == EXPECTED["kinds"]["requests"]["rows"]
    assert requests["ttft_ms"].sum() == pytest.approx(EXPECTED["kinds"]["requests"]["ttft_ms"], rel=1e-9)


@pytest.mark.slow
def test_a_search_that_was_over_stays_over(tmp_path: Path) -> None:
    """Run again, the sweep finds its decisions in ``search.json`` and its ids in the folders: nothing is left."""
    results = tmp_path / "adaptive"
    shutil.copytree(RESULTS / "adaptive", results)
    before = {str(path.relative_to(results)) for path in results.rglob("*")}
    argv = (results / "sweep.yaml", "--executor", "simulate", "--max-jobs", "1", "-o", results, "--json")
    code, out, err = sweep_inside(tmp_path, *map(str, argv))
    assert code == 0, err
    assert json.loads(out)["failed"] == 0
    fresh = {str(path.relative_to(results)) for path in results.rglob("*")} - before
    assert fresh - {"derived.json"} == {"controller.lock"}
    was = {name: json.loads((RESULTS / "adaptive" / name).read_text()) for name in ("search.json", "ifb_choice.json")}
    now = {name: json.loads((results / name).read_text()) for name in was}
    # Why something is not worth it is said by today's forecasts; what was decided stays.
    assert now["search.json"]["decisions"] == was["search.json"]["decisions"]
    skipped = [
        {name: [(skip["experiment"], skip["label"]) for skip in each[name].pop("skips")] for name in was}
        for each in (was, now)
    ]
    assert skipped[0] == skipped[1]
    assert now["ifb_choice.json"] == {**was["ifb_choice.json"], "budget_gpu_hours": 5.0}
    assert (results / "choice.json").read_text() == (RESULTS / "adaptive" / "choice.json").read_text()


# -- jobs that were queued ----------------------------------------------------------------------------------------


def unpickle(name: str) -> Any:
    """The call in a job's pickle. A module that has moved may say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return DelayedSubmission.load(GOLDEN / name).function


def test_a_job_that_was_queued_before_runs(tmp_path: Path) -> None:
    """What submitit pickled for one experiment, called as Slurm's job does, on a folder in which all is measured."""
    call = unpickle("queued_job_v1.pkl")
    assert call.args == (f"/srv/results/quickstart/{QUEUED}",)
    assert call.keywords == {"allocated": True, "sent": "ratematch-b1f32971cd-fa678765318a"}
    (done,) = (RESULTS / "adaptive").glob("ctx-*")
    folder = tmp_path / done.name
    shutil.copytree(done, folder)
    job = {"executor": "slurm", "id": "4711", "name": call.keywords["sent"], "pack": None, "sent": 0.0, "task": None}
    (folder / "job.json").write_text(json.dumps(job))
    outcome = call.func(str(folder), **call.keywords)
    assert (outcome["ok"], outcome["measured"]) == (True, 0)
    (folder / "job.json").write_text(json.dumps(job | {"name": "another"}))
    assert call.func(str(folder), **call.keywords)["error"] == "another job was sent for this since"


def test_a_pack_that_was_queued_before_is_called(tmp_path: Path) -> None:
    call = unpickle("queued_pack_v1.pkl")
    assert call.args == ("/srv/results/quickstart/packs/d3cad0ea4232",)
    with pytest.raises(DamagedFile, match=r"pack\.json: no such file"):
        call.func(str(tmp_path))


# -- names of processes ------------------------------------------------------------------------------------------

PROCESSES = {
    "ratematch.run.member": (("no-such-folder", "node1", ""), 1, "no experiment.json here"),
    "ratematch.loadgen.shards": (("no-such-folder", "0"), 1, "no-such-folder/job.json"),
    "ratematch.emulator": (("serve", "--no-such-option"), 2, "No such option"),
    "ratematch.emulator.vllm": (("serve", "model", "--no-such-option"), 2, "--no-such-option"),
    "ratematch.emulator.llmapi_launch": (("echo", "launched"), 0, "launched"),
    "ratematch.engines.vllm.proxy": (("--port", "1"), 2, "required: --prefill, --decode"),
}
"""``python -m NAME`` as it stands in scripts that were written, steps of jobs that run, and rendered ``run.sh``: its
arguments in a call that ends at once, the exit code, and what it says."""


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_is_found_by_its_name(name: str) -> None:
    assert importlib.util.find_spec(name) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_starts_by_its_name(name: str, tmp_path: Path) -> None:
    argv, code, says = PROCESSES[name]
    root = Path(rm.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "SLURM_PROCID": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", name, *argv],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,  # open until it has ended: some end when it is closed
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout is not None
        said = process.stdout.read()
        assert process.wait(60) == code, said
    assert "ModuleNotFoundError" not in said and "ImportError" not in said
    assert says in said
