"""What `ratematch render` writes: the same as a job launches, and a script that runs by itself."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.cli.load import load as load_verb
from ratematch.errors import UserError
from ratematch.inputs.catalog import load_model
from ratematch.inputs.find import read_cluster
from ratematch.loadgen.cores import divide, find_cores, find_gpus, format_cpus
from ratematch.loadgen.options import LoadOptions
from ratematch.plan.cluster import Cluster, Container, Slurm, TimeLimit
from ratematch.plan.cores import CoreShare
from ratematch.plan.experiment import Experiment, seed_of
from ratematch.plan.load import Concurrency, Load, Rate, Trace
from ratematch.plan.workload import Workload, parse_spread
from ratematch.run import render
from ratematch.run.script import quote
from ratematch.slurm.srun import HERE, slurm_step
from ratematch.store.files import read_json
from ratematch.store.folder import Results
from tests.engines.golden import RACK, experiment_of, launch
from tests.ports import ten_free_ports
from tests.support.invented import AGG, GEN, PAIR, experiment
from tests.support.processes import processes_with, wait_until
from tests.support.scripts import RATEMATCH, starts

LAPTOP = read_cluster(str(Path(__file__).parents[2] / "slurm" / "clusters" / "laptop.yaml"))


def option(words: list[str], name: str) -> str:
    (found,) = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    return found


# ----------------------------------------------------------------------------------------------------- steps


def step_of(case: str, server: str, cluster: Cluster = RACK) -> tuple[str, ...]:
    (spec,) = [spec for spec in launch(case, "main").processes if spec.name == server]
    return slurm_step(spec, cluster).argv


def test_a_server_has_a_task_for_each_rank_on_the_nodes_of_its_gpus() -> None:
    words = list(step_of("gen-dep16-over-4-nodes-mtp3", "gen-0"))
    assert (option(words, "--ntasks"), option(words, "--nodes"), option(words, "--ntasks-per-node")) == (
        "16",
        "4",
        "4",
    )
    assert option(words, "--nodelist") == "node0,node1,node2,node3"
    small = list(step_of("two-servers-a-node-eplb", "ctx-1"))
    assert (option(small, "--ntasks"), option(small, "--nodes")) == ("2", "1")


def test_numactl_then_the_wrapper_then_the_server_and_neither_for_the_orchestrator() -> None:
    words = list(step_of("ctx2xdep4-gen1xdep8-mtp0", "gen-0"))
    at = words.index("numactl")
    assert words[at : at + 5] == ["numactl", "-m", "0,1", "trtllm-llmapi-launch", "trtllm-serve"]
    orchestrator = step_of("ctx2xdep4-gen1xdep8-mtp0", "orchestrator")
    assert not {"numactl", "trtllm-llmapi-launch"} & set(orchestrator)
    assert "--mpi=pmix" in orchestrator and "--ntasks=1" in orchestrator


def test_variables_are_set_inside_the_container_and_those_of_the_runtime_outside_too() -> None:
    (spec,) = [spec for spec in launch("eagle3", "main").processes if spec.name == "ctx-0"]
    step = slurm_step(spec, RACK)
    inside = step.argv[step.argv.index("env") :]
    assert "TRTLLM_ENABLE_PDL=1" in inside and "--unset=UCX_TLS" in inside and "ENROOT_ALLOW_DEV=yes" in inside
    assert dict(step.env) == {"ENROOT_ALLOW_DEV": "yes"}
    assert slurm_step(spec, replace(RACK, container=None)).env == ()


def test_a_servers_own_value_of_an_unset_variable_wins() -> None:
    """`env` removes first and sets then, wherever the words stand; a recipe may well set UCX_TLS."""
    (spec,) = [spec for spec in launch("eagle3", "main").processes if spec.name == "ctx-0"]
    words = slurm_step(replace(spec, launcher=(), env=(("UCX_TLS", "rc,cuda_copy"),)), replace(RACK, numactl=())).argv
    told = [*words[words.index("env") : -len(spec.argv)], "printenv", "UCX_TLS"]
    done = subprocess.run(told, capture_output=True, text=True, check=True, env={**os.environ, "UCX_TLS": "tcp"})
    assert done.stdout == "rc,cuda_copy\n"


def test_the_profile_decides_the_rest_of_a_step() -> None:
    emulated = replace(RACK, container=None, numactl=(), slurm=Slurm(mpi=None, tasks="node", srun=("--time=30",)))
    words = step_of("gen-dep16-over-4-nodes-mtp3", "gen-0", emulated)
    assert "--ntasks=4" in words and "--ntasks-per-node=1" in words and "--time=30" in words
    assert not [word for word in words if word.startswith(("--mpi", "--container", "--no-container", "numactl"))]
    home = replace(RACK, container=Container("nvcr.io#nvidia/tensorrt-llm/release:1.2.0", (), mount_home=True))
    words = step_of("agg-tep4", "agg-0", home)
    assert f"--container-mounts={HERE}:{HERE}" in words and "--no-container-mount-home" not in words
    assert f"--container-workdir={HERE}" in words


# ----------------------------------------------------------------------------------------------------- scripts


@given(
    st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=30), st.booleans()
)
def test_any_word_survives_the_shell(word: str, placed: bool) -> None:
    text = f"{word}{HERE}{word}" if placed else word
    told = subprocess.run(
        ["bash", "-c", f"WORK='/a b'; printf %s {quote(text)}"], capture_output=True, check=True, timeout=20
    )
    assert told.stdout.decode() == text.replace(HERE, "/a b")


def files_of(asked: Experiment, cluster: Cluster, *, allocated: bool, nodes: tuple[str, ...] = ()) -> dict[str, str]:
    (one,) = render.render(asked, cluster, allocated=allocated, nodes=nodes, port_base=21000)
    return one.files


def test_a_job_script_says_what_the_profile_says() -> None:
    slurm = Slurm(
        *("batch", "llm", "high", "resv"),
        time=TimeLimit(1.0, 5.0, 240.0),
        segment=18,
        gpus="gres",
        gres="gpu:gb200",
        exclude=("node9",),
        sbatch=("--comment=a b", "--no-kill"),
        prologue="/site/prologue.sh",
    )
    asked = experiment_of("gen-dep16-over-4-nodes-mtp3", "main")
    script = files_of(asked, replace(RACK, slurm=slurm), allocated=True)["job.sbatch"].splitlines()
    assert set(script) >= {
        *("#SBATCH --partition=batch", "#SBATCH --account=llm", "#SBATCH --qos=high", "#SBATCH --reservation=resv"),
        *("#SBATCH --nodes=4", "#SBATCH --ntasks-per-node=4", "#SBATCH --segment=4", "#SBATCH --gres=gpu:gb200:4"),
        *("#SBATCH --exclusive", "#SBATCH --exclude=node9", "#SBATCH --comment='a b'", "#SBATCH --no-kill"),
        # 20 minutes to start, 5 for a load, 2 to unpack the image, and the floor; in steps of 5.
        *("#SBATCH --time=35", ". /site/prologue.sh"),
    }
    shared = replace(RACK, slurm=Slurm(gpus="none", exclusive=False))
    script = files_of(asked, shared, allocated=True)["job.sbatch"].splitlines()
    assert not [line for line in script if "exclusive" in line or "gpus" in line or "segment" in line]


def test_placeholders_stand_only_where_nodes_are_not_known() -> None:
    asked = experiment_of("ctx2xdep4-gen1xdep8-mtp0", "main")
    blank = files_of(asked, RACK, allocated=True)
    assert "__NODE0__:21000" in blank["orchestrator.yaml"] and "${NODES[3]}" in blank["run.sh"]
    known = files_of(asked, RACK, allocated=True, nodes=("n1", "n2", "n3", "n4"))
    assert "__NODE" not in "".join(known.values()) and "NODES" not in known["run.sh"].replace("$NODES", "")
    swap = {f"__NODE{index}__": f"n{index + 1}" for index in range(4)}
    for name in ("orchestrator.yaml", "gen.yaml", "ctx.yaml", "placement.json"):
        text = blank[name]
        for old, new in swap.items():
            text = text.replace(old, new)
        assert text == known[name]


LOADS = (
    *(Concurrency(4, 8), Concurrency(4, 4000, 3, seconds=12.5, stagger_s=1.5), Rate(2.25, 8, "constant", 2)),
    *(Rate(2.0, 8, "gamma", burstiness=0.5, end_req_s=8.0, max_in_flight=32), Trace(20, 1.5, 2, max_in_flight=7)),
)
WORKLOADS = (
    *(Workload(64, 8), Workload(64, 8, 0.8, 0.5), Workload(999, 99, turns=3, think_s=0.25)),
    Workload(64, 8, isl_spread=parse_spread("normal:32,8"), osl_spread=parse_spread("lognormal:4,2")),
    Workload(64, 8, prefix_share=0.5, prefix_groups=4, text="/t e/x.txt", tokenizer="/t", file="/d/trace.jsonl"),
    Workload(64, 8, file="/d/trace.jsonl", time_unit="s", hash_block=16),
)


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.label)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.label)
def test_every_load_of_every_workload_is_said_in_options(load: Load, workload: Workload) -> None:
    script = files_of(experiment(workload=workload, loads=(load,)), LAPTOP, allocated=False)["run.sh"]
    (line,) = [line for line in script.replace("\\\n", " ").splitlines() if line.startswith("send ")]
    words = ["http://x", "--model", "m", *shlex.split(line)[1:]]
    options = load_verb.make_context("load", words).params
    assert options.pop("output") == Path("loads") and options.pop("as_json") is False
    asked = LoadOptions(**options)
    assert asked.workload() == workload
    assert asked.loads(None, True) == [load]
    assert asked.vocab_size == load_model("deepseek-r1").vocab


def test_each_load_of_a_script_has_the_seed_that_a_sweep_gives_it() -> None:
    """They go to the same servers: with one seed, a load would find the prompts of the one before it in the cache."""
    asked = experiment("e2e", PAIR, loads=(Concurrency(2, 8), Concurrency(4, 8), Concurrency(4, 8, repeat=1)))
    script = files_of(asked, LAPTOP, allocated=False)["run.sh"].replace("\\\n", " ")
    seeds = [
        shlex.split(line)[shlex.split(line).index("--seed") + 1] for line in script.splitlines() if "--seed" in line
    ]
    assert seeds[1:] == [str(seed_of(asked, load)) for load in asked.loads]
    assert len(set(seeds)) == 4, "the warm-up of connections has one of its own"


def test_loads_go_on_after_one_that_cannot_be_trusted(tmp_path: Path) -> None:
    """run.sh with a stand-in for every program: a server that only lives, and loads that end with 0, 3 and 0."""
    bodies = {
        "server": "exec sleep 60",
        "curl": "exit 0",
        "ratematch": 'echo "$6" >>"$0.called"; [[ $6 != 2 ]] || exit 3',
    }
    for name, body in bodies.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    asked = experiment(loads=(Concurrency(1, 8), Concurrency(2, 8), Concurrency(3, 8)))
    found = render.render(asked, replace(LAPTOP, command=(str(tmp_path / "server"),)), allocated=False)
    render.write(found, tmp_path)
    code, told = run_script(tmp_path / found[0].path, PATH=f"{tmp_path}:{os.environ['PATH']}", RATEMATCH="ratematch")
    assert (tmp_path / "ratematch.called").read_text().split() == ["1", "2", "3"], told
    assert code == 3
    assert not [line for _, line in processes_with(str(tmp_path)) if "sleep" in line]


def test_the_secret_of_a_start_is_made_by_the_script_for_its_servers_alone(tmp_path: Path) -> None:
    """run.sh with a stand-in for every program: servers that note what they read, how open it is, and their words."""
    bodies = {
        "server": f'echo "$(stat -c %a private) $(stat -c %a private/*.yaml) $@" >>{tmp_path}/seen\n'
        f"grep -h auth_key private/*.yaml >>{tmp_path}/keys\nexec sleep 60",
        "curl": f"until [[ $(wc -l <{tmp_path}/keys) -ge 3 ]]; do sleep 0.05; done",
        "ratematch": "exit 0",
    }
    for name, body in bodies.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    asked = experiment("e2e", PAIR, loads=(Concurrency(1, 8),), version="1.4")
    profile = replace(LAPTOP, command=(str(tmp_path / "server"),), launcher=())
    found = render.render(asked, profile, allocated=False)
    render.write(found, tmp_path)
    folder = tmp_path / found[0].path
    code, told = run_script(folder, PATH=f"{tmp_path}:{os.environ['PATH']}", RATEMATCH="ratematch")
    assert code == 0, told
    (key,) = set((tmp_path / "keys").read_text().splitlines())
    assert re.fullmatch(r"internal_request_auth_key: '[0-9a-f]{64}'", key)
    value = key.split("'")[1]
    seen = (tmp_path / "seen").read_text()
    assert seen.startswith("700 600") and "private/ctx.yaml" in seen and value not in seen
    texts = [path.read_text() for path in tmp_path.rglob("*.yaml")]
    assert sum("internal_request_auth_key: '***made at launch***'" in text for text in texts) == 6, (
        "and in the copies"
    )
    assert all(value not in text for text in [*texts, told]) and not list(folder.rglob("private"))


def test_no_server_is_started_for_loads_that_cannot_be_sent(tmp_path: Path) -> None:
    found = render.render(experiment(), LAPTOP, allocated=False)
    render.write(found, tmp_path)
    code, told = run_script(tmp_path / found[0].path, RATEMATCH="/no/such/ratematch")
    assert code == 1
    assert told == "run.sh: /no/such/ratematch is not on PATH, loads need it (`run.sh serve` does not)\n"
    assert not list((tmp_path / found[0].path).glob("run-*"))


def test_each_start_of_the_servers_is_a_folder() -> None:
    asked = experiment("gen", PAIR, loads=(Concurrency(8, 16), Concurrency(16, 32)))
    found = render.render(asked, LAPTOP, allocated=False)
    assert [each.path.name for each in found] == ["1", "2"]
    assert ["TLLM_BENCHMARK_REQ_QUEUES_SIZE=16" in each.files["run.sh"] for each in found] == [False, True]


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    found = render.render(experiment(), LAPTOP, allocated=False)
    render.write(found, tmp_path)
    render.write(found, tmp_path)
    script = tmp_path / found[0].path / "run.sh"
    script.write_text("mine")
    with pytest.raises(UserError, match=r"run.sh is there already"):
        render.write(found, tmp_path)
    assert script.read_text() == "mine"
    render.write(found, tmp_path, force=True)
    assert script.read_text() == found[0].files["run.sh"]


def test_experiments_are_chosen_by_id_or_by_a_part_of_the_name() -> None:
    asked = [experiment(), experiment("gen", GEN)]
    assert render.choose(asked, asked[1].id) == [asked[1]]
    assert render.choose(asked, "agg1xTEP4") == [asked[0]]
    with pytest.raises(UserError, match="no experiment of this sweep is called 'TEP9'; there are 2"):
        render.choose(asked, "TEP9")


# ----------------------------------------------------------------------------------------------------- for real


def _folder_of(pid: int) -> Path | None:
    """Where a process runs; ``None`` when it has just ended."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


@pytest.mark.slow
def test_a_job_launches_what_render_writes(tmp_path: Path) -> None:
    """Files byte for byte, and of the living servers each word of the command line and each variable."""
    asked = experiment("gen", GEN, loads=(Concurrency(2, 400),))
    folder = Results(tmp_path / "results").add(asked, LAPTOP)
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen([str(RATEMATCH), "run", str(folder.path)], stdout=log, stderr=log)
    launch_folder = folder.path / "launch" / "1"
    try:
        wait_until(lambda: (launch_folder / "provenance.json").exists(), "servers that answer")
        base = min(each["port"] for each in read_json(launch_folder / "placement.json")["instances"])
        (expected,) = render.render(asked, LAPTOP, allocated=False, port_base=base)
        for name, text in expected.files.items():
            assert (launch_folder / name).read_text() == text, name
        told = starts(expected.files["run.sh"])
        assert set(told) == {"gen-0", "orchestrator"}
        for words in told.values():
            settings = [word for word in words[1:] if "=" in word and not word.startswith("--")]
            argv = words[words.index(settings[-1]) + 1 :]
            # Another test's servers may have the same words; what is ours runs in our folder.
            alike = [pid for pid, line in processes_with("RATEMATCH_RUN=") if line.split() == argv]
            (pid,) = [pid for pid in alike if _folder_of(pid) == launch_folder]
            environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
            assert set(settings) <= set(environment)
            names = {entry.partition("=")[0] for entry in environment}
            assert names.isdisjoint(word.removeprefix("--unset=") for word in words if word.startswith("--unset="))
    finally:
        job.terminate()
        job.wait(30)
    assert not [line for _, line in processes_with(str(launch_folder)) if "emulator" in line]


def run_script(folder: Path, **environment: str) -> tuple[int, str]:
    environment = {**os.environ, "RATEMATCH": str(RATEMATCH), **environment}
    done = subprocess.run(
        ["bash", str(folder / "run.sh")],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


AND_WHERE_SERVERS_ARE = """\
#!/bin/bash
"$REAL" "$@"
code=$?
for process in /proc/[0-9]*; do
  if grep -qxz "RATEMATCH_RUN=$RATEMATCH_RUN" "$process/environ" && grep -q emulator "$process/cmdline"; then
    grep -h Cpus_allowed_list "$process"/task/*/status
  fi
done 2>/dev/null >>"$WHERE"
exit $code
"""
"""The command in a script's place of ``ratematch``: a load, and then the CPUs of every thread of the servers."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        experiment("e2e", PAIR, loads=(Concurrency(4, 12, 2),)),
        experiment("ifb", AGG, loads=(Rate(20.0, 20, "constant"),)),
    ],
    ids=["ctx-gen-orchestrator", "aggregated"],
)
def test_the_script_runs_an_experiment_by_hand(tmp_path: Path, asked: Experiment) -> None:
    port = ten_free_ports()
    found = render.render(asked, replace(LAPTOP, load_cores=1), allocated=False, port_base=port)
    render.write(found, tmp_path)
    folder = tmp_path / found[0].path
    command = tmp_path / "ratematch"
    command.write_text(AND_WHERE_SERVERS_ARE)
    command.chmod(0o755)
    where = tmp_path / "where"
    code, told = run_script(folder, RATEMATCH=str(command), REAL=str(RATEMATCH), WHERE=str(where))
    allowed = os.sched_getaffinity(0)
    rest = divide(CoreShare(1, 1), find_cores(allowed), find_gpus(), len(allowed)).rest
    threads = [line.partition(":")[2].strip() for line in where.read_text().splitlines()]
    assert len(threads) > 1 and set(threads) == {format_cpus(rest)}, "off the core of the load generator"
    assert code in (0, 3), told  # 3: so few requests are no steady load on a busy machine
    (figures,) = folder.glob("run-*/loads/*/measurement.json")
    assert json.loads(figures.read_text())["num_ok"] == asked.loads[0].num_requests
    assert not [line for _, line in processes_with("RATEMATCH_EMULATED_GPU") if str(port)[:-1] in line]
    assert {path.name for path in folder.iterdir()} == {*found[0].files, figures.parents[2].name}


@pytest.mark.slow
def test_the_script_tells_which_server_fails_and_ends_the_others(tmp_path: Path) -> None:
    port = ten_free_ports()
    found = render.render(experiment("e2e", PAIR), LAPTOP, allocated=False, port_base=port)
    render.write(found, tmp_path)
    folder = tmp_path / found[0].path
    config = folder / "gen.yaml"
    config.write_text(config.read_text() + "no_such_key: 1\n")
    code, told = run_script(folder)
    assert code == 1 and "gen-0 has ended" in told and "no_such_key" in told
    assert not [line for _, line in processes_with("RATEMATCH_EMULATED_GPU") if str(port)[:-1] in line]


def test_the_script_wants_an_allocation_when_its_nodes_are_placeholders(tmp_path: Path) -> None:
    found = render.render(experiment("e2e", PAIR), RACK, allocated=True)
    render.write(found, tmp_path)
    done = subprocess.run(
        ["bash", str(tmp_path / found[0].path / "run.sh")],
        env={key: value for key, value in os.environ.items() if not key.startswith("SLURM_")},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "run.sh: needs 4 nodes: sbatch job.sbatch, or salloc --nodes=4 first\n"
