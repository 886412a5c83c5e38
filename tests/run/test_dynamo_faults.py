"""What goes wrong behind Dynamo's real frontend, for real: each ends with its name, and with nothing left running."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.engines import find_engine
from ratematch.engines.dynamo import environment as dynamo_environment
from ratematch.errors import WrongServers
from ratematch.plan.deployment import Deployment
from ratematch.plan.load import Concurrency
from ratematch.run.conversing import join, recheck
from ratematch.run.experiment import measure_experiment, place_locally
from ratematch.run.launch import running
from ratematch.store.folder import ExperimentFolder, Results
from ratematch.store.outcome import Outcome
from tests.support.dynamo import AGG, CTX, EMULATED, GEN, behind_dynamo, commands_in, needs_dynamo, needs_services
from tests.support.processes import processes_in, processes_with, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.dynamo, needs_dynamo]

PAIR = Deployment(CTX, GEN)
ALONE = Deployment(agg=AGG)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the processes of a deployment write outside its launch folder comes here; nothing of it may stay, and no
    process and no shared memory either."""
    folder, cache = tmp_path / "tmp", tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    shared = {file.name for file in Path("/dev/shm").glob("*dyn*")}
    yield folder
    wait_until(lambda: not list(processes_with(str(tmp_path))), "all processes to end", 20)
    assert list(folder.iterdir()) == []
    assert {file.name for file in Path("/dev/shm").glob("*dyn*")} <= shared


def meanwhile(folder: ExperimentFolder, label: str, act: Callable[[Path], None]) -> threading.Thread:
    """Calls ``act`` with the launch folder once answers of the load ``label`` have come."""

    def wait() -> None:
        wait_until(lambda: _done(folder, label) > 0, f"answers of {label}")
        act(sorted((folder.path / "launch").iterdir(), key=lambda launch: int(launch.name))[-1])

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def _done(folder: ExperimentFolder, label: str) -> int:
    try:
        progress = json.loads((folder.path / "progress.json").read_text())
    except (OSError, ValueError):
        return 0
    return int(progress.get("done", 0)) if progress.get("load") == label and progress.get("part") == "load" else 0


def kill(pattern: str) -> Callable[[Path], None]:
    """Ends the process of a launch whose command line ``pattern`` is found in, as a crash would."""

    def act(launch: Path) -> None:
        (number,) = [number for number, command in commands_in(launch) if re.search(pattern, command)]
        os.kill(number, signal.SIGKILL)

    return act


def check_over(folder: ExperimentFolder) -> None:
    for launch in (folder.path / "launch").iterdir():
        assert processes_in(launch) == []


def measure(folder: ExperimentFolder, label: str, act: Callable[[Path], None]) -> Outcome:
    thread = meanwhile(folder, label, act)
    outcome = measure_experiment(folder.path)
    thread.join(10)
    check_over(folder)
    return outcome


def test_a_decode_worker_is_killed_and_only_what_is_missing_is_measured_later(tmp_path: Path) -> None:
    loads = (Concurrency(1, 4), Concurrency(4, 100))
    folder = Results(tmp_path).add(behind_dynamo("e2e", PAIR, loads, osl=24), EMULATED)
    outcome = measure(folder, loads[1].label, kill("--disaggregation-mode decode"))
    assert not outcome.ok and outcome.kind == "ServerDied"
    assert outcome.error is not None and "gen-0 was killed by SIGKILL" in outcome.error
    (kept,) = folder.loads()
    assert kept.load == loads[0]

    again = measure_experiment(folder.path)
    assert again.ok, again
    check_over(folder)
    assert folder.done() and len(folder.loads()) == 2
    assert kept.run.wall_start_ns == folder.loads()[0].run.wall_start_ns, "what was measured is not measured again"


@needs_services
def test_a_prefill_worker_is_killed(tmp_path: Path) -> None:
    """One of vLLM's, with everything over NATS."""
    loads, planes = (Concurrency(4, 200),), {"request_plane": "nats", "event_plane": "nats"}
    folder = Results(tmp_path).add(behind_dynamo("e2e", PAIR, loads, backend="vllm", **planes), EMULATED)
    outcome = measure(folder, loads[0].label, kill("--disaggregation-mode prefill"))
    assert not outcome.ok and outcome.kind == "ServerDied"
    assert outcome.error is not None and "ctx-0 was killed by SIGKILL" in outcome.error
    assert folder.loads() == []


def test_the_frontend_is_killed(tmp_path: Path) -> None:
    loads = (Concurrency(4, 400),)
    folder = Results(tmp_path).add(behind_dynamo("ifb", ALONE, loads), EMULATED)
    outcome = measure(folder, loads[0].label, kill("-m dynamo.frontend"))
    assert not outcome.ok and outcome.kind == "ServerDied"
    assert outcome.error is not None and "frontend-0 was killed by SIGKILL" in outcome.error
    assert folder.loads() == []


@needs_services
def test_etcd_is_killed(tmp_path: Path) -> None:
    loads = (Concurrency(4, 400),)
    folder = Results(tmp_path).add(behind_dynamo("ifb", ALONE, loads, discovery="etcd"), EMULATED)
    outcome = measure(folder, loads[0].label, kill(r"^\S*etcd --listen"))
    assert not outcome.ok and outcome.kind == "ServerDied"
    assert outcome.error is not None and re.search(r"etcd (was killed|ended with exit code 137)", outcome.error)
    assert folder.loads() == []


def another(launch: Path, **changes: str) -> subprocess.Popen[bytes]:
    """One more worker like that of a launch, on another port, with other variables."""
    ((number, _),) = [found for found in commands_in(launch) if "dynamo-worker" in found[1]]
    proc = Path(f"/proc/{number}")
    argv = (proc / "cmdline").read_bytes().split(b"\0")[:-1]
    pairs = (proc / "environ").read_bytes().decode().split("\0")
    environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    environment |= {"DYN_SYSTEM_PORT": "-1", **changes}
    environment.pop("RATEMATCH_LAUNCH", None)
    with (launch / "another.log").open("wb") as log:
        return subprocess.Popen(argv, cwd=launch, env=environment, stdout=log, stderr=log)


def test_a_worker_that_joins_in_the_middle_of_a_load_spoils_it(tmp_path: Path) -> None:
    loads = (Concurrency(4, 360),)  # a quarter of a minute: starting a worker on a busy machine takes its time
    folder = Results(tmp_path).add(behind_dynamo("ifb", ALONE, loads), EMULATED)
    late: list[subprocess.Popen[bytes]] = []
    try:
        outcome = measure(folder, loads[0].label, lambda launch: late.append(another(launch)))
    finally:
        for worker in late:
            worker.kill()
            worker.wait()
    assert not outcome.ok and outcome.kind == "WrongServers"
    assert outcome.error is not None and "workers that were not started here: 1 of" in outcome.error
    assert folder.loads() == []


def test_a_worker_at_its_limit_refuses_and_the_load_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamo_environment, "request_limit", lambda experiment: 2)
    monkeypatch.setenv("DYN_DYNAMO_REQUEST_QUEUE_LIMIT", "1")
    loads = (Concurrency(16, 64),)
    folder = Results(tmp_path).add(behind_dynamo("ifb", ALONE, loads), EMULATED)
    outcome = measure_experiment(folder.path)
    check_over(folder)
    assert outcome.ok, "a refused request is a record, not an exception"
    (stored,) = folder.loads()
    assert not stored.measurement.valid and stored.measurement.num_failed > 0
    assert "refused requests because it held as many as it may" in (stored.run.cause or "")


def test_other_names_strays_and_leftovers_are_no_deployment_of_ours(tmp_path: Path) -> None:
    experiment = behind_dynamo("ifb", ALONE, (Concurrency(1, 4),))
    engine = find_engine(experiment.engine.key)
    launch, stop = tmp_path / "launch", threading.Event()
    launch.mkdir()

    def plan(number: int) -> object:
        return engine.plan_launch(experiment, place_locally(experiment, EMULATED), EMULATED, 60.0)

    with running(plan(1), launch, engine.diagnose, stop, lambda waiting: None) as servers:
        join(servers, engine, experiment, stop, lambda waiting: None)
        with pytest.raises(WrongServers, match="the workers serve deepseek-r1, and loads name the model other-model"):
            join(servers, engine, replace(experiment, model_path="other-model"), stop, lambda waiting: None)
        stray = another(launch, DYN_NAMESPACE="somebody-else")
        try:
            with pytest.raises(WrongServers, match="workers that were not started here: 1 of somebody-else/backend"):
                wait_until(lambda: recheck(servers, engine, experiment, stop), "the stray worker to be listed")
        finally:
            stray.kill()
            stray.wait()
    # Its entry in the discovery folder is still there: a new start must not take it for a worker.
    stale = list((launch / "discovery").glob("**/*somebody*"))
    assert stale, "the killed worker could not take itself out"
    with (
        running(plan(2), launch, engine.diagnose, stop, lambda waiting: None) as servers,
        pytest.raises(WrongServers, match="workers that were not started here: 1 of somebody-else/backend"),
    ):
        join(servers, engine, experiment, stop, lambda waiting: None)
    assert processes_in(launch) == []
