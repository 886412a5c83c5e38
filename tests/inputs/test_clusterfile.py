"""Cluster profiles: what they may say, what is refused with file and line, and where they are found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ratematch.errors import ClusterError
from ratematch.inputs.clusterfile import VALID_KEYS, parse_cluster
from ratematch.inputs.find import read_cluster
from ratematch.plan.cluster import Container, StageWeights, TimeLimit, from_json, to_json
from ratematch.slurm.sbatch import segment_size

ROOT = Path(__file__).parents[2]
HEAD = "name: rack\ngpu: gb200\ngpus_per_node: 4\nnodes: 18\n"

FULL = (
    HEAD
    + """\
about: All there is.
launcher: [wrap]
numactl: "-N 0 -m 0,1"
environment: {A: "1"}
check_paths: false
slurm:
  partition: batch
  account: llm
  qos: high
  reservation: ours
  time: {factor: 1.5, floor_minutes: 5, max_minutes: 240}
  segment: 18
  gpus: gres
  gres: gpu:gb200
  exclusive: false
  mpi: pmi2
  tasks: node
  exclude: [node7]
  sbatch: [--comment=a b, --no-kill]
  srun: [--network=x]
  prologue: prologue.sh
container:
  image: /images/a.sqsh
  mounts: ["/models:/models:ro", "/scratch:/scratch"]
  mount_home: true
"""
)


def test_every_key_arrives_and_survives_the_results_folder(tmp_path: Path) -> None:
    (tmp_path / "prologue.sh").touch()
    cluster = parse_cluster(FULL, "rack.yaml", tmp_path)
    assert from_json(to_json(cluster)) == cluster
    slurm = cluster.slurm
    assert (slurm.partition, slurm.account, slurm.qos, slurm.reservation) == ("batch", "llm", "high", "ours")
    assert slurm.time == TimeLimit(1.5, 5.0, 240.0)
    assert (slurm.segment, slurm.gpus, slurm.gres, slurm.exclusive) == (18, "gres", "gpu:gb200", False)
    assert (slurm.mpi, slurm.tasks, slurm.exclude) == ("pmi2", "node", ("node7",))
    assert (slurm.sbatch, slurm.srun) == (("--comment=a b", "--no-kill"), ("--network=x",))
    assert slurm.prologue == str(tmp_path / "prologue.sh")
    assert cluster.container == Container("/images/a.sqsh", ("/models:/models:ro", "/scratch:/scratch"), True)
    assert (cluster.numactl, cluster.launcher) == (("-N", "0", "-m", "0,1"), ("wrap",))
    assert not cluster.check_paths


def test_defaults_follow_from_the_gpu_and_from_who_serves() -> None:
    real, emulated = parse_cluster(HEAD, "a.yaml"), parse_cluster(HEAD + "emulated: true\n", "a.yaml")
    assert (real.numactl, real.slurm.mpi, real.slurm.tasks) == (("-m", "0,1"), "pmix", "gpu")
    assert real.launcher is None and real.command == (), "the engine's own"
    assert (emulated.numactl, emulated.slurm.mpi, emulated.slurm.tasks) == ((), None, "node")
    assert parse_cluster(HEAD.replace("gb200", "h200"), "a.yaml").numactl == ()
    assert parse_cluster(HEAD + 'numactl: ""\n', "a.yaml").numactl == ()


def test_a_profile_kept_before_it_knew_slurm_can_still_be_read() -> None:
    old = {
        key: value
        for key, value in to_json(parse_cluster(HEAD + "emulated: true\n", "a.yaml")).items()
        if key not in ("slurm", "container", "launcher", "numactl", "check_paths")
    }
    assert from_json(old).slurm.tasks == "node"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slurm: {partion: x}", "a.yaml:5: slurm.partion: unknown key 'partion' (valid keys: partition, account"),
        ("slurm: {time: {maximum: 1}}", "a.yaml:5: slurm.time.maximum: unknown key 'maximum' (valid keys: factor"),
        ("container: {img: x, image: y}", "a.yaml:5: container.img: unknown key 'img' (valid keys: image, mounts"),
        ("container: {}", "a.yaml:5: container.image: required key 'image' is missing"),
        ("slurm:\n  exclusive: 'yes'", "a.yaml:6: slurm.exclusive: must be a valid boolean, not 'yes'"),
        ("slurm:\n  segment: 0", "a.yaml:6: slurm.segment: must be greater than 0, not 0"),
        ("slurm:\n  partition: 5", "a.yaml:6: slurm.partition: must be text, not 5 (put it in quotes)"),
        ("slurm:\n  gpus: gpu", "a.yaml:6: slurm.gpus: must be 'gpus-per-node', 'gres' or 'none', not 'gpu'"),
        ("slurm:\n  sbatch:\n    - -N4", "a.yaml:7: slurm.sbatch[0]: '-N4' is no long option"),
        ("slurm:\n  sbatch: [--qos=x]", "slurm.sbatch[0]: --qos is set by ratematch (use slurm.qos)"),
        ("slurm:\n  sbatch: [--time=5]", "slurm.sbatch[0]: --time is set by ratematch (use slurm.time)"),
        (
            "slurm:\n  srun: [--nodes=2]",
            "slurm.srun[0]: --nodes is set by ratematch (it follows from the deployment)",
        ),
        ("slurm:\n  prologue: gone.sh", "slurm.prologue: there is no script gone.sh"),
        ("container:\n  image: x\n  mounts: [models]", "a.yaml:7: container.mounts[0]: 'models' is no mount"),
        ("emulated: true\ncontainer: {image: x}", "a.yaml:6: container: an emulated cluster has none by itself (set"),
        (
            "emulated: true\ncommand: [emulator]\ncontainer: {image: x}\nslurm: {tasks: gpu}",
            "launcher: the emulator's own launcher is not in the image",
        ),
        ("environment: {A-B: x}", "a.yaml:5: environment.A-B: 'A-B' is no name of a variable"),
        ('numactl: "-m \'0"', "a.yaml:5: numactl: cannot be read as options"),
        ("caches: cache", "a.yaml:5: caches: 'cache' is no folder (write its path from /)"),
        (
            "container: {image: x, mounts: ['/raid/c:/c']}\ncaches: /cache",
            "a.yaml:6: caches: /cache is below no mount of the container, and would go with it",
        ),
        ("starts: later", "a.yaml:5: starts: must be 'auto', 'beside' or 'apart', not 'later'"),
        ("name: again", "a.yaml:5: name: key 'name' is given twice"),
    ],
)
def test_a_mistake_is_reported_with_file_and_line(text: str, said: str) -> None:
    with pytest.raises(ClusterError) as caught:
        parse_cluster(HEAD + text + "\n", "a.yaml")
    assert said in str(caught.value)


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ClusterError) as caught:
        parse_cluster(
            HEAD.replace("gb200", "gb999") + "slurm: {sbatch: [-x]}\ncontainer: {image: x, mounts: [y]}\n", "a"
        )
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("text", ["- a", "just words", ""])
def test_a_file_that_is_no_map_is_one_line(text: str) -> None:
    with pytest.raises(ClusterError) as caught:
        parse_cluster(text, "a.yaml")
    assert str(caught.value).startswith("a.yaml:1") and "\n" not in str(caught.value)


def test_the_reference_names_every_key() -> None:
    readme = (ROOT / "slurm" / "README.md").read_text()
    for section, keys in VALID_KEYS.items():
        for key in keys:
            name = f"{section}.{key}" if section else key
            spelled = (f"`{name}`", f"`.{key}`", f"`{key}`", f"{{{key},", f" {key},", f" {key}}}")
            assert key in ("slurm", "container", "about") or any(form in readme for form in spelled), name


def test_the_example_of_the_reference_is_a_profile() -> None:
    text = (ROOT / "slurm" / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    cluster = parse_cluster(text, "README.md")
    assert cluster.container is not None and cluster.slurm.segment == 18


def test_of_several_places_for_profiles_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, home, site = tmp_path / "here", tmp_path / "home", tmp_path / "site"
    places = {
        "path": here / "rack.yaml",
        "variable": site / "rack.yaml",
        "here": here / "slurm" / "clusters" / "rack.yaml",
        "config": home / "ratematch" / "clusters" / "rack.yaml",
    }
    for about, path in places.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD + f"about: {about}\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("RATEMATCH_CLUSTERS", f"{tmp_path / 'nowhere'}:{site}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    for about, path in places.items():
        assert read_cluster("rack").about == about
        path.unlink()
    with pytest.raises(ClusterError, match=r"there is no cluster profile 'rack' \(known in .*; or give the path"):
        read_cluster("rack")


@pytest.mark.parametrize(
    ("nodes", "domain", "size"), [(4, 18, 4), (18, 18, 18), (36, 18, 18), (20, 18, 10), (19, 18, 1)]
)
def test_a_segment_divides_the_job(nodes: int, domain: int, size: int) -> None:
    assert segment_size(nodes, domain) == size


def test_a_time_limit_stays_within_what_the_site_allows() -> None:
    assert TimeLimit().minutes(45.0) == 100
    assert TimeLimit(2.0, 10.0, 60.0).minutes(45.0) == 60
    assert TimeLimit(1.0, 0.0).minutes(0.2) == 1


@pytest.mark.parametrize(
    ("more", "executor"),
    [
        ("", "slurm"),
        ("emulated: true\n", "local"),
        ("emulated: true\nslurm: {}\n", "slurm"),
        ("emulated: true\nslurm: {partition: main}\n", "slurm"),
    ],
)
def test_a_profile_tells_where_its_servers_run(more: str, executor: str) -> None:
    cluster = parse_cluster(HEAD + more, "a.yaml")
    assert cluster.nodes > 1 and cluster.default_executor == executor
    # One node may be this machine: it takes a slurm part, or a container, to be Slurm's.
    one = parse_cluster(HEAD.replace(f"nodes: {cluster.nodes}", "nodes: 1") + more, "a.yaml")
    assert one.nodes == 1 and one.default_executor == ("slurm" if "slurm" in more else "local")
    assert to_json(cluster) == to_json(from_json(to_json(cluster))), "it is not kept with results"


def test_profiles_that_ship_tell_where_their_servers_run() -> None:
    executors = {
        name: read_cluster(name).default_executor for name in ("laptop", "testcluster", "h200", "gb200-nvl72")
    }
    assert executors == {"laptop": "local", "testcluster": "slurm", "h200": "slurm", "gb200-nvl72": "slurm"}


@pytest.mark.parametrize("path", sorted((ROOT / "slurm" / "clusters").glob("*.yaml")), ids=lambda path: path.stem)
def test_profiles_that_ship_hold_no_site_of_ours(path: Path) -> None:
    assert not re.search(r"account: \w", re.sub(r"#.*", "", path.read_text()))


def test_an_emulator_may_be_in_an_image() -> None:
    cluster = parse_cluster(HEAD + "emulated: true\ncommand: [emulator]\ncontainer: {image: x}\n", "a.yaml")
    assert cluster.emulated and cluster.command == ("emulator",) and cluster.container == Container("x")
    assert cluster.default_executor == "slurm"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("stage_weights: /local/w", StageWeights("/local/w")),
        ("stage_weights: {path: /local/w, limit_gb: 800, keep: true}", StageWeights("/local/w", 800.0, True)),
    ],
)
def test_weights_may_be_staged(written: str, expected: StageWeights) -> None:
    cluster = parse_cluster(f"{HEAD}{written}\n", "a.yaml")
    assert cluster.stage_weights == expected
    assert re.fullmatch(r"/local/w/R1_fp4-[0-9a-f]{10}/R1 fp4", cluster.weights_for_servers("/models/R1 fp4/"))
    assert parse_cluster(HEAD, "a.yaml").weights_for_servers("/models/R1 fp4/") == "/models/R1 fp4/"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("stage_weights: local/w", "stage_weights.path: 'local/w' is no folder of a node's own disk"),
        ("stage_weights: /", "is no folder of a node's own disk"),
        ("stage_weights: /local/../w", "is no folder of a node's own disk"),
        ("stage_weights: '/a:b'", "is no folder of a node's own disk"),
        ("stage_weights: 3", "stage_weights: must be a map of keys"),
        ("stage_weights: {limit_gb: 3}", "required key 'path' is missing"),
        ("stage_weights: {path: /a, limit_gb: 0}", "stage_weights.limit_gb: must be greater than 0"),
        ("stage_weights: {path: /a, limit_gb: .inf}", "stage_weights.limit_gb: must be"),
        ("stage_weights: {path: /a, limit: 3}", "unknown key 'limit'"),
        ("prepare_minutes: -1", "prepare_minutes: must be"),
        ("container: {image: /x.sqsh, unpack: never}", "container.unpack: must be 'job' or 'launch', not 'never'"),
    ],
)
def test_wrong_stages_are_refused_with_their_line(written: str, why: str) -> None:
    with pytest.raises(ClusterError) as error:
        parse_cluster(f"{HEAD}{written}\n", "a.yaml")
    assert str(error.value).startswith(f"a.yaml:{HEAD.count(chr(10)) + 1}: ") and why in str(error.value)


@pytest.mark.parametrize("option", ["--container-writable", "--container-name=mine", "--container-save=/x.sqsh"])
def test_servers_that_need_an_image_of_their_own_share_none(option: str) -> None:
    image = "container: {image: /x.sqsh}\n"
    assert parse_cluster(HEAD + image, "a.yaml").unpacks_once
    assert not parse_cluster(f"{HEAD}{image}slurm: {{srun: [{option}]}}\n", "a.yaml").unpacks_once
    assert not parse_cluster(HEAD, "a.yaml").unpacks_once
