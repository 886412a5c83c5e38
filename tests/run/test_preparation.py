"""What nodes get before servers start: once a job, for all its launches, with a stand-in for srun."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.errors import UserError
from ratematch.plan.cluster import Cluster, Container, Slurm, StageWeights, from_json, to_json
from ratematch.run import preparation, render
from ratematch.run.launches import Launch
from ratematch.run.machines import Allocation
from ratematch.run.placing import as_served
from ratematch.run.preparation import UNPACKED_VARIABLE, Preparation, copying, image_for_all, why_unstaged
from ratematch.run.stopping import Interrupted
from ratematch.slurm.srun import HERE, trial_step, unpack_step
from ratematch.store.folder import Results
from ratematch.store.outcome import Outcome
from tests.engines.golden import RACK, experiment_of, launch
from tests.run.test_site import stand_in
from tests.support.processes import wait_until

SRUN = """\
printf -v line '%q ' srun "$@"
echo "$line" >>"$SRUN_LOG"
while [[ ${1:-} == --* ]]; do
  case $1 in
    --nodelist=*) IFS=, read -ra nodes <<<"${1#*=}" ;;
    --job-name=*) name=${1#*=} ;;
    --container-image=/missing*) echo "slurmstepd-node1: error: pyxis: no such image" >&2; exit 1 ;;
    --container-name=*) [[ ! -e $SRUN_LOG.old ]] || { echo "error: pyxis: no container of that name" >&2; exit 1; } ;;
  esac
  shift
done
case $name in unpack | unpack-trial | weights) ;; *) exec sleep 600 ;; esac
for node in "${nodes[@]}"; do
  SLURMD_NODENAME=$node SLURM_JOB_ID=7 SLURM_STEP_ID=3 "$@" <&0 &
done
wait -n && wait
"""
SHARED = "--container-name=7.3:no_exec"
NODES = ("node1", "node2")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for every srun, of which a stand-in is on PATH; beside it, ``calls.old`` makes it one of a
    pyxis that knows no shared containers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    stand_in(folder, "srun", SRUN)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SRUN_LOG", str(tmp_path / "calls"))
    return tmp_path / "calls"


def sruns(calls: Path) -> list[list[str]]:
    return [shlex.split(line) for line in calls.read_text().splitlines()] if calls.exists() else []


def named(calls: Path, name: str) -> list[list[str]]:
    return [words for words in sruns(calls) if f"--job-name={name}" in words]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    with site.preparation.ending():
        yield site


class Site:
    """A job on two nodes, and launches of its experiment."""

    def __init__(self, path: Path):
        self.path = path
        self.preparation = Preparation()
        self.stop = threading.Event()
        self.weights = path / "models" / "r1"
        self.weights.mkdir(parents=True)
        (self.weights / "model.safetensors").write_bytes(bytes(1000))
        self.experiment = replace(experiment_of("agg-tp4pp2", "main"), model_path=str(self.weights))
        mounts = (f"{path}/models:{path}/models:ro",)
        self.cluster = replace(RACK, container=Container("/images/trtllm.sqsh", mounts))

    def launch(self, environment: dict[str, str] | None = None) -> tuple[Launch, Allocation]:
        folder = Results(self.path / "results").add(self.experiment, self.cluster)
        start = Launch(folder, self.experiment, self.experiment.loads, folder.new_launch())
        where = Allocation("7", (*NODES, "node3"), self.cluster)
        prepared = self.preparation.prepare(start, self.cluster, where, self.stop)
        assert prepared is not None
        return start, prepared

    def server(self, where: Allocation) -> list[str]:
        (spec,) = [spec for spec in launch("agg-tp4pp2", "main").processes if spec.name == "agg-0"]
        return list(where.step(spec).argv)


def test_one_step_unpacks_the_image_for_all_launches_of_a_job(site: Site, calls: Path) -> None:
    first, where = site.launch()
    assert SHARED in site.server(where) and not [word for word in site.server(where) if "--container-image" in word]
    assert first.preparing_s > 0
    second, again = site.launch()
    assert again.container == SHARED and second.preparing_s == 0
    (step,) = named(calls, "unpack")
    assert step == [*unpack_step(site.cluster, NODES).argv], "on the nodes of the deployment, of three"
    assert len(named(calls, "unpack-trial")) == 1


def test_without_shared_containers_each_server_unpacks_its_own(site: Site, calls: Path) -> None:
    Path(f"{calls}.old").touch()
    _, where = site.launch()
    assert "--container-image=/images/trtllm.sqsh" in site.server(where)
    assert "error: pyxis: no container of that name" in site.preparation.note
    site.launch()
    assert len(named(calls, "unpack")) == 1, "it is not tried again"


def test_an_image_that_is_missing_is_left_to_the_servers_to_name(site: Site, calls: Path) -> None:
    site.cluster = replace(site.cluster, container=Container("/missing.sqsh"))
    _, where = site.launch()
    assert "--container-image=/missing.sqsh" in site.server(where)
    assert "pyxis: no such image" in site.preparation.note


@pytest.mark.parametrize(
    "cluster",
    [
        replace(RACK, container=Container("/images/trtllm.sqsh", unpack="launch")),
        replace(RACK, slurm=Slurm(srun=("--container-writable",))),
        replace(RACK, slurm=Slurm(srun=("--container-name=mine",))),
        replace(RACK, container=None),
    ],
)
def test_a_copy_of_its_own_where_the_profile_wants_it(site: Site, calls: Path, cluster: Cluster) -> None:
    site.cluster = cluster
    start, where = site.launch()
    image = [] if cluster.container is None else ["--container-image=/images/trtllm.sqsh"]
    assert [word for word in site.server(where) if "--container-image" in word] == image
    assert sruns(calls) == [] and start.preparing_s == 0


def test_drivers_of_a_pack_use_what_the_pack_has_unpacked(
    site: Site, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with image_for_all(site.cluster, (*NODES, "node3"), site.path, site.stop) as environment:
        assert environment == {UNPACKED_VARIABLE: "7.3"}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        _, where = site.launch()
        assert where.container == SHARED and len(named(calls, "unpack")) == 1
    Path(f"{calls}.old").touch()
    with image_for_all(site.cluster, NODES, site.path, site.stop) as environment:
        assert environment == {}


def staged(site: Site, limit_gb: float | None = None) -> Path:
    """Have weights staged; returns the folder of their copy."""
    stage = StageWeights(str(site.path / "disk"), limit_gb)
    site.cluster = replace(site.cluster, container=None, stage_weights=stage)
    return Path(stage.copy_of(str(site.weights)))


def test_weights_are_copied_once_a_node_and_job_and_are_gone_after_it(site: Site, calls: Path) -> None:
    copy = staged(site)
    first, _ = site.launch()
    assert (copy / "model.safetensors").stat().st_size == 1000 and first.preparing_s > 0
    site.launch()
    (step,) = named(calls, "weights")
    assert step == [*copying(site.cluster, site.experiment, NODES).argv]  # type: ignore[union-attr]
    site.preparation.last = first, Outcome(ok=True, held_s=5.0, seconds=4.0)
    with site.preparation.ending():
        pass
    assert not copy.exists()
    kept = json.loads((first.path / "outcome.json").read_text())
    assert kept["held_s"] > 5 and kept["seconds"] - 4 == pytest.approx(kept["held_s"] - 5)


def test_a_node_without_room_says_so_in_one_line(site: Site, calls: Path) -> None:
    staged(site, limit_gb=500e-9)
    with pytest.raises(UserError) as error:
        site.launch()
    said = str(error.value)
    assert said.startswith("the weights cannot be staged: node") and "the limit is 0.0 MB" in said
    assert "\n" not in said


def test_whoever_is_stopped_meanwhile_stops(site: Site, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "unpacking", lambda cluster, nodes: preparation.Step(("cat",)))
    site.stop.set()
    with pytest.raises(Interrupted, match="the image and the weights"):
        site.launch()


def test_progress_says_how_far_it_is(tmp_path: Path) -> None:
    log = "srun: something\nprogress node1 500000000 2000000000\nprogress node2 900000000 2000000000\nready node3\n"
    step = preparation.KeptStep(preparation.Step(("printf", "%s", log)), 3, tmp_path / "log")
    wait_until(lambda: step.has_ended, "the step")
    shown = step.describe("weights", "copied")
    assert (shown.name, shown.why) == ("weights", "copied on 1 of 3 nodes, 0.5 GB of 2.0 GB")
    step.end()


# ------------------------------------------------------------------------------------------- before anything is sent


def test_servers_are_told_of_the_copy_and_see_it(site: Site) -> None:
    site.cluster = replace(site.cluster, stage_weights=StageWeights("/local/rm"))
    served = as_served(site.experiment, site.cluster)
    assert served.model_path.startswith("/local/rm/r1-") and served.id == site.experiment.id
    (one,) = render.render(site.experiment, site.cluster, allocated=True, nodes=NODES, port_base=21000)
    script = one.files["run.sh"]
    assert f"serve {served.model_path} " in script and f"MODEL={served.model_path}" in script
    assert ",/local/rm:/local/rm:ro," in script
    (step,) = [line for line in script.replace("\\\n", " ").splitlines() if line.startswith("prepare weights ")]
    assert shlex.split(step)[-4:] == [str(site.weights), served.model_path, "0", "remove"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nvidia/DeepSeek-R1", "the model is given by name (nvidia/DeepSeek-R1)"),
        ("/elsewhere/r1", "/elsewhere/r1 is below no mount of the container"),
        ("models", "1.0 MB, and stage_weights.limit_gb is 0.0005"),
    ],
)
def test_what_cannot_be_staged_is_known_before_anything_is_sent(site: Site, path: str, why: str) -> None:
    (site.weights / "model.safetensors").write_bytes(bytes(1_000_000))
    path = str(site.weights) if path == "models" else path
    cluster = replace(site.cluster, stage_weights=StageWeights("/local/rm", 500e-6))
    assert why in (why_unstaged(path, cluster) or "")
    assert why_unstaged(path, site.cluster) is None
    if "limit" not in why:
        with pytest.raises(UserError, match="stage_weights"):
            render.render(replace(site.experiment, model_path=path), cluster, allocated=True, nodes=NODES)


def test_a_profile_survives_json() -> None:
    full = replace(RACK, stage_weights=StageWeights("/local/rm", 500.0, True), prepare_minutes=3.0)
    for cluster in (RACK, full, replace(RACK, container=Container("/x.sqsh", unpack="launch"))):
        assert from_json(json.loads(json.dumps(to_json(cluster)))) == cluster
    assert "unpack" not in to_json(RACK)["container"] and "stage_weights" not in to_json(RACK)


def run_by_hand(site: Site, environment: dict[str, str]) -> tuple[subprocess.Popen[str], Path]:
    (one,) = render.render(site.experiment, site.cluster, allocated=True, nodes=NODES, port_base=21000)
    render.write([one], site.path / "rendered")
    folder = site.path / "rendered" / one.path
    command = ["bash", str(folder / "run.sh"), "serve"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=os.environ | environment, **pipes), folder  # type: ignore[call-overload]


@pytest.mark.parametrize("old", [False, True])
def test_a_rendered_script_starts_the_very_steps(site: Site, calls: Path, old: bool) -> None:
    copy = staged(site)
    site.cluster = replace(site.cluster, container=RACK.container)
    site.cluster = replace(site.cluster, container=Container("/images/a b.sqsh", (f"{site.path}:{site.path}",)))
    stand_in(calls.parent / "bin", "curl", "printf 200")
    if old:
        Path(f"{calls}.old").touch()
    process, folder = run_by_hand(site, {})
    wait_until(lambda: named(calls, "agg-0") or process.poll() is not None, "servers")
    there = copy.is_dir()
    (work,) = folder.glob("run-*")
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=30)
    assert there, told
    assert process.returncode == 130, told
    assert not copy.exists(), "released with the servers"
    by_hand = sruns(calls)
    calls.unlink()
    _, where = site.launch()
    if old:
        assert "each server unpacks the image for itself" in told
    own = [word.replace(HERE, str(work)).replace("node0,node1", ",".join(NODES)) for word in site.server(where)]
    assert sorted(by_hand[:3]) == sorted(sruns(calls)[:3])
    assert by_hand[3][: own.index("env")] == own[: own.index("env")]
    assert trial_step(site.cluster, NODES).within(SHARED).argv == tuple(by_hand[2])


def test_an_experiment_of_this_machine_stages_without_slurm(site: Site, calls: Path) -> None:
    copy = staged(site)
    folder = Results(site.path / "results").add(site.experiment, site.cluster)
    start = Launch(folder, site.experiment, site.experiment.loads, folder.new_launch())
    assert site.preparation.prepare(start, site.cluster, None, site.stop) is None
    assert copy.is_dir() and sruns(calls) == []
