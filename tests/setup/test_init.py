"""``ratematch init`` against stand-ins of Slurm's commands: sites as they answer, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ratematch.cli import main
from ratematch.inputs.find import read_cluster, read_sweep
from ratematch.slurm.survey import read_gres, read_minutes, read_mpi

LISTED_MPI = "MPI plugin types are...\n\tpmix\n\tpmi2\n\tnone\nspecific pmix plugin versions available: pmix_v4\n"


class Site:
    """A folder that is PATH, with the commands that a site has."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.bin = folder / "bin"
        self.bin.mkdir()
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.chdir(folder)

    def answers(self, command: str, **by_words: str) -> None:
        """``command`` prints the value whose key, with blanks for underscores, is among its arguments."""
        cases = "".join(
            f"case \"$*\" in *'{key.replace('_', ' ')}'*) echo '{value}'; exit 0;; esac\n"
            for key, value in by_words.items()
        )
        path = self.bin / command
        path.write_text(f"#!/bin/sh\n{cases}exit 1\n")
        path.chmod(0o755)

    def slurm(self, groups: str, *, accounts: str = "llm", pyxis: bool = True, topology: str = "") -> None:
        self.answers("sinfo", noheader=groups, version="slurm 24.05.8")
        self.answers("srun", mpi=LISTED_MPI, help="--container-image" if pyxis else "--label")
        self.answers("scontrol", topology=topology)
        self.answers("sacctmgr", assoc=accounts)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def init(*words: str) -> Result:
    return CliRunner().invoke(main, ["init", *words])


def test_what_slurm_says_is_not_asked_for(site: Site) -> None:
    site.slurm("cpu*|40|(null)|up|1-00:00:00\nbatch|12|gpu:h200:8(S:0-1)|up|04:00:00")
    done = init(
        "--model", "qwen3-8b", "--weights", "/models/q", "--image", "/i/t-1.3.0rc14.sqsh", "--mount", "/m:/models"
    )
    assert done.exit_code == 0, done.output
    cluster = read_cluster("batch")
    assert (cluster.gpu, cluster.gpus_per_node, cluster.nodes) == ("h200", 8, 12)
    assert (cluster.slurm.partition, cluster.slurm.account, cluster.slurm.mpi) == ("batch", "llm", "pmix")
    assert cluster.slurm.time.max_minutes == 240 and cluster.default_executor == "slurm"
    assert cluster.container is not None and cluster.container.mounts == ("/m:/models",)
    assert cluster.model_paths == {"qwen3-8b": "/models/q"}
    sweep, text = read_sweep("batch-first.yaml")
    assert sweep.engine.version == "1.3.0rc14" and "about" not in text
    assert {plan.stage for plan in sweep.stages} == {"ctx", "gen", "ifb"} and sweep.e2e is not None
    assert "ratematch plan batch-first.yaml" in done.output


def test_the_plan_of_a_first_sweep_leaves_nothing_out(site: Site) -> None:
    site.slurm("batch*|18|gpu:gb200:4|up|infinite", topology="BlockName=b1 BlockIndex=0 Nodes=n[1-18] BlockSize=18")
    assert init("--model", "deepseek-r1").exit_code == 0
    assert read_cluster("batch").slurm.segment == 18
    planned = CliRunner().invoke(main, ["plan", "batch-first.yaml", "--json"])
    content = json.loads(planned.stdout)
    assert {each["stage"] for each in content["experiments"]} == {"ctx", "gen", "ifb"}
    servers = [each.options.get("attention_dp_config") for each in read_sweep("batch-first.yaml")[0].stages]
    assert servers == [None, None, {"enable_balance": True, "timeout_iters": 60, "batching_wait_iters": 0}], "of ifb"
    text = Path("batch-first.yaml").read_text()
    assert "DEP4" in text and "mtp: [0, 3]" in text and "TP1" not in text


@pytest.mark.parametrize("model", ["deepseek-r1", "qwen3-8b", "qwen3-235b-a22b", "llama-3.3-70b", "gpt-oss-120b"])
@pytest.mark.parametrize("nodes", ["h200|8", "gb200|4", "h100|8"])
def test_every_model_gets_a_sweep_that_can_be_planned_or_a_reason(site: Site, model: str, nodes: str) -> None:
    gpu, per_node = nodes.split("|")
    site.slurm(f"batch*|4|gpu:{gpu}:{per_node}|up|infinite")
    done = init("--model", model)
    assert done.exit_code == 0 or "name more" in done.output, done.output
    if done.exit_code == 0:
        planned = CliRunner().invoke(main, ["plan", "batch-first.yaml"])
        assert planned.exit_code == 0, planned.output


@pytest.mark.parametrize(
    ("groups", "accounts", "words", "says"),
    [
        ("a*|4|(null)|up|infinite", "x", (), "(--partition)"),
        ("a|4|gpu:h200:8|up|1:00:00\nb|4|gpu:h100:8|up|1:00:00", "x", (), "one of a, b? (--partition)"),
        ("a*|4|gpu:h200:8|up|1:00:00\na*|2|gpu:h100:4|up|1:00:00", "x", (), "different nodes"),
        ("a*|4|gpu:8|up|infinite", "x", (), "(--gpu)"),
        ("a*|4|gpu:titan:8|up|infinite", "x", (), "calls it 'titan'"),
        ("a*|4|(null)|up|infinite", "x", ("--partition", "a", "--gpu", "h200"), "(--gpus-per-node)"),
        ("a*|4|gpu:h200:8|up|infinite", "x", ("--partition", "z"), "no such partition; it has a"),
        ("a*|4|gpu:h200:8|up|infinite", "x", ("--name", "../x"), "--name"),
        ("a*|4|gpu:h200:8|up|infinite", "x", ("--name", "x\ny"), "--name"),
        ("a*|4|gpu:h200:8|up|infinite", "x", ("--weights", "/m/x\nslurm: {}"), "control character"),
        ("a*|1|gpu:h100:1|up|infinite", "x", ("--model", "deepseek-r1"), "fits on no server"),
    ],
)
def test_what_nobody_said_is_one_line_that_names_the_option(
    site: Site, groups: str, accounts: str, words: tuple[str, ...], says: str
) -> None:
    site.slurm(groups, accounts=accounts)
    done = init(*(("--model", "qwen3-8b") if "--model" not in words else ()), *words)
    assert done.exit_code == 1
    assert says in done.output and done.output.count("\n") == 1, done.output
    assert not list(Path().glob("**/*.yaml"))


def test_an_image_needs_pyxis(site: Site) -> None:
    site.slurm("a*|4|gpu:h200:8|up|infinite", pyxis=False)
    done = init("--model", "qwen3-8b", "--image", "/i.sqsh")
    assert done.exit_code == 1 and "pyxis" in done.output


def test_answers_win_over_what_slurm_says(site: Site) -> None:
    site.slurm("a*|4|gpu:4|up|infinite\nb|9|gpu:h100:8|up|infinite", accounts="x\ny")
    words = (
        "--gpu",
        "h200",
        "--gpus-per-node",
        "2",
        "--nodes",
        "3",
        "--account",
        "y",
        "--mpi",
        "pmi2",
        "--name",
        "mine",
    )
    assert init("--model", "qwen3-8b", *words, "--partition", "a").exit_code == 0
    cluster = read_cluster("mine")
    assert (cluster.gpu, cluster.gpus_per_node, cluster.nodes) == ("h200", 2, 3)
    assert (cluster.slurm.account, cluster.slurm.mpi, cluster.slurm.partition) == ("y", "pmi2", "a")


def test_without_an_account_slurm_takes_the_default_one(site: Site) -> None:
    site.slurm("a*|4|gpu:h200:8|up|infinite", accounts="x\ny")
    assert init("--model", "qwen3-8b").exit_code == 0
    assert read_cluster("a").slurm.account is None
    assert "one of x, y; without it your default one" in Path("slurm/clusters/a.yaml").read_text()


def test_on_a_terminal_what_is_missing_is_asked_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.slurm("a|4|gpu:8|up|infinite\nb|4|gpu:8|up|infinite")
    monkeypatch.setattr("ratematch.cli.init.on_terminal", lambda: True)
    done = CliRunner().invoke(main, ["init"], input="qwen3-8b\nb\nh200\n")
    assert done.exit_code == 0, done.output
    assert read_cluster("b").gpu == "h200"


def test_files_of_a_person_are_not_written_over(site: Site) -> None:
    site.slurm("a*|4|gpu:h200:8|up|infinite")
    Path("a-first.yaml").write_text("name: mine\n")
    done = init("--model", "qwen3-8b")
    assert done.exit_code == 1 and "is there already" in done.output
    assert not Path("slurm").exists() and Path("a-first.yaml").read_text() == "name: mine\n"
    assert init("--model", "qwen3-8b", "--force").exit_code == 0
    assert init("--model", "qwen3-8b").exit_code == 0, "the same text again"


def test_without_slurm_and_gpu_it_names_what_can_be_done_here(site: Site) -> None:
    done = init("--model", "qwen3-8b")
    assert done.exit_code == 1 and done.output.count("\n") == 1
    assert "login node" in done.output and "--emulated" in done.output
    assert init("--model", "qwen3-8b", "--emulated", "--gpu", "h200", "--gpus-per-node", "8").exit_code == 0
    assert read_cluster("here").emulated and read_cluster("here").default_executor == "local"
    for words in (("--partition", "a"), ("--image", "/i.sqsh"), ("--gpu", "h200")):
        assert init("--model", "qwen3-8b", *words).exit_code == 1


def test_without_a_terminal_the_model_must_be_named(site: Site) -> None:
    done = init()
    assert done.exit_code == 1 and "--model" in done.output and "deepseek-r1" in done.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu:h200:8(S:0-1)", (8, "h200")),
        ("gpu:8", (8, None)),
        ("(null)", (0, None)),
        ("lustre:1,gpu:nvidia_h100_80gb_hbm3:4(S:0)", (4, "nvidia_h100_80gb_hbm3")),
        ("gpu:a100:2,gpu:h100:2", (4, None)),
        ("mps:100", (0, None)),
    ],
)
def test_generic_resources(text: str, expected: tuple[int, str | None]) -> None:
    assert read_gres(text) == expected


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("infinite", None),
        ("4:00:00", 240),
        ("1-12:30:00", 2190),
        ("30:00", 30),
        ("n/a", None),
        ("", None),
        ("x-1:2:3", None),
    ],
)
def test_time_limits(text: str, minutes: int | None) -> None:
    assert read_minutes(text) == minutes


@pytest.mark.parametrize("old", ["srun: MPI types are...\nsrun: pmix\nsrun: pmi2\nsrun: none\n", LISTED_MPI])
def test_mpi_flavours_of_old_and_new_releases(old: str) -> None:
    assert {"pmix", "pmi2"} <= set(read_mpi(old))
