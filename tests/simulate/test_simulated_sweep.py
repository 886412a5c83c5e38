"""Whole sweeps in virtual time: the same files as any sweep, labelled; and they agree with the emulator over HTTP."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from ratematch.plan.experiment import from_json
from ratematch.store.folder import Results
from tests.support.processes import processes_in, wait_until
from tests.support.sites import IFB_ONLY, MINI, analyse, make_site, ratematch, read, run, sweep_inside

pytestmark = pytest.mark.slow

AGREEMENT = """\
name: agreement
about: The same small sweep emulated and simulated.
model: deepseek-r1
cluster: laptop
workloads:
  - {isl: 512, osl: 48}
budget: {max_gpus: 12}
ctx:
  axes: {mapping: DEP4}
  loads: {concurrency: [1, 4], min_requests: 48, requests_per_slot: 12}
gen:
  axes: {mapping: TEP4, mtp: [1]}
  options: {stream_interval: 4}
  loads: {concurrency: [1, 8, 24], min_requests: 8, requests_per_slot: 6}
ifb:
  axes: {mapping: TEP4}
  options: {stream_interval: 4}
  loads: {concurrency: [1, 8, 24], min_requests: 8, requests_per_slot: 6}
deployments:
  - ctx: {mapping: DEP4, instances: 1}
    gen: {mapping: TEP4, instances: 2}
    loads: {concurrency: [8], min_requests: 48, requests_per_slot: 6}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return make_site(tmp_path, mini=MINI, agreement=AGREEMENT)


def figures(results: Path) -> dict[tuple[str, str], Any]:
    return {
        (folder.read().label, stored.load.label): stored.measurement
        for folder in Results(results).folders()
        for stored in folder.loads()
    }


def test_a_simulated_sweep_has_everything_a_sweep_has_and_says_what_it_is(site: Path) -> None:
    code, out, err = sweep_inside(site, "mini.yaml", "--executor", "simulate", "--json")
    assert code == 0, err
    outcome = json.loads(out)
    assert outcome["simulated"] is True
    assert outcome["loads_not_valid"] == 0
    folder = site / "results" / "mini-simulated"
    assert outcome["results"] == str(folder.relative_to(site))
    for experiment in Results(folder).folders():
        assert experiment.done()
        assert experiment.read().origin == "simulated"
        assert (experiment.path / "launch" / "1" / "placement.json").exists()
        assert experiment.gpu_hours() > 0
        for load in experiment.loads():
            assert load.run.origin == "simulated"
            assert (load.folder / "records.parquet").exists()
    code, out, err = read(site, "pareto", str(folder))
    assert code == 0, err
    assert "SIMULATED" in out
    assert "EMULATED" not in out
    analysis = analyse(site, str(folder), "--remeasure")
    assert analysis["simulated"] is True
    assert analysis["workloads"]["256/12"]["end_to_end"]


def test_simulated_figures_never_meet_others(site: Path) -> None:
    (site / "sweeps" / "ifb.yaml").write_text(IFB_ONLY.replace("name: mini", "name: ifb"))
    assert sweep_inside(site, "ifb.yaml", "--executor", "simulate")[0] == 0
    code, _, err = sweep_inside(site, "ifb.yaml", "-o", "results/ifb-simulated")
    assert code != 0
    assert "holds simulated figures" in err
    assert err.count("\n") == 1
    # Whoever copies folders together is told as well.
    one = Results(site / "results" / "ifb-simulated").folders()[0]
    other = one.path.with_name("copied")
    other.mkdir()
    for name in ("cluster.json", "loads"):
        (other / name).symlink_to(one.path / name)
    content = json.loads((one.path / "experiment.json").read_text())
    (other / "experiment.json").write_text(json.dumps({**content, "simulated": False}))
    code, _, err = read(site, "pareto", "results/ifb-simulated")
    assert code != 0
    assert "emulated and simulated results never share a front" in err


def test_figures_of_two_step_time_models_never_meet(site: Path) -> None:
    (site / "sweeps" / "ifb.yaml").write_text(IFB_ONLY.replace("name: mini", "name: ifb"))
    sweep = ("ifb.yaml", "--executor", "simulate")
    assert sweep_inside(site, *sweep)[0] == 0
    code, _, err = sweep_inside(site, *sweep, RATEMATCH_EMULATED_STEPS="kernels")
    assert code == 1
    assert "holds figures of the step-time model roofline, and kernels is asked for" in err
    assert "-o" in err and "RATEMATCH_EMULATED_STEPS=roofline" in err and err.count("\n") == 1
    # Whoever copies folders together is told as well; figures of the other model alone say which it was.
    folders = Results(site / "results" / "ifb-simulated").folders()
    for done, folder in enumerate(folders, 1):
        file = folder.path / "experiment.json"
        changed = {**json.loads(file.read_text()), "step_times": "kernels"}
        file.write_text(json.dumps(changed))
        folder.path.rename(folder.path.with_name(from_json(changed).folder))
        code, out, err = read(site, "pareto", "results/ifb-simulated", "--remeasure")
        if done < len(folders):
            assert code == 1 and "step-time models never share a front" in err
    assert code == 0 and "step times: kernels" in out


def test_the_same_seed_gives_the_same_figures_in_either_loop(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, loop in (("one", "plain"), ("two", "compiled")):
        argv = ("sweep", "mini.yaml", "--executor", "simulate", "-o", name)
        assert run(site, *argv, RATEMATCH_SIMULATION=loop)[0] == 0
    assert figures(site / "one") == figures(site / "two")


def test_a_killed_simulation_goes_on_where_it_stopped(site: Path) -> None:
    process = ratematch(site, "sweep", "mini.yaml", "--executor", "simulate", "--max-jobs", "1")
    results = site / "results" / "mini-simulated"
    wait_until(lambda: any(results.glob("*/loads/*/loadrun.json")), "the first load")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not processes_in(site), "the jobs of the killed controller to end", seconds=10)
    before = {file: file.stat().st_mtime_ns for file in results.glob("*/loads/*/loadrun.json")}
    code, _, err = sweep_inside(site, "mini.yaml", "--executor", "simulate")
    assert code == 0, err
    assert all(file.stat().st_mtime_ns == when for file, when in before.items())
    assert len(list(results.glob("*/loads/*/loadrun.json"))) == 10


def test_jobs_of_a_killed_simulation_end_with_it(tmp_path: Path) -> None:
    """One load of minutes: without the controller nobody waits for it, and it would hold its experiment."""
    site = make_site(tmp_path, mini=IFB_ONLY)
    of_minutes = "ifb.loads={concurrency: 64, min_requests: 500000, requests_per_slot: 1}"
    process = ratematch(site, "sweep", "mini.yaml", "--executor", "simulate", "--set", of_minutes)
    results = site / "results" / "mini-simulated"
    wait_until(lambda: results.exists() and any(f.held() for f in Results(results).folders()), "a job at work")
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()  # its pipes stay open as long as a job lives
    wait_until(lambda: not processes_in(site), "the jobs of the killed controller to end", seconds=10)
    process.communicate()


def differences(
    emulated: dict[tuple[str, str], Any], simulated: dict[tuple[str, str], Any]
) -> dict[tuple[str, str], str]:
    """Loads whose figures differ by more than a few per cent, or, of TTFT, the few ms that HTTP takes here."""
    mismatches = {}
    for key, real in emulated.items():
        virtual = simulated[key]
        pairs = [("requests/s", virtual.req_s, real.req_s, 0.06 * real.req_s)]
        pairs.append(("TTFT", virtual.ttft_ms.mean, real.ttft_ms.mean, 6 + 0.06 * real.ttft_ms.mean))
        if real.tpot_ms:
            pairs.append(("TPOT", virtual.tpot_ms.mean, real.tpot_ms.mean, 0.04 * real.tpot_ms.mean))
        wrong = [
            f"{name} simulated {ours:.4g}, emulated {theirs:.4g}"
            for name, ours, theirs, allowed in pairs
            if abs(ours - theirs) > allowed
        ]
        if wrong:
            mismatches[key] = f"{' '.join(key)}: {', '.join(wrong)}"
    return mismatches


def test_simulated_and_emulated_figures_agree(site: Path) -> None:
    """The emulator needs a machine that keeps its times; what disturbs it comes and goes, so what differs is measured
    again."""
    as_emulated = {"RATEMATCH_SIMULATED_SERVING": "0s"}  # what real servers take beside their steps, it does not
    code, _, err = run(site, "sweep", "agreement.yaml", "-o", "simulated", "--executor", "simulate", **as_emulated)
    assert code == 0, err
    simulated = figures(site / "simulated")
    for _ in range(3):
        code, _, err = run(site, "sweep", "agreement.yaml", "-o", "emulated")
        assert code in (0, 3), err
        emulated = figures(site / "emulated")
        assert emulated.keys() == simulated.keys()
        if not (mismatches := differences(emulated, simulated)):
            return
        for folder in Results(site / "emulated").folders():
            if any(label == folder.read().label for label, _ in mismatches):
                shutil.rmtree(folder.path)
    pytest.fail("\n".join(mismatches.values()))
