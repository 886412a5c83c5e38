"""srt-slurm's srtslurm.yaml comes back as a cluster profile; what has no place is listed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ratematch.cli import main
from ratematch.errors import RecipeError
from ratematch.exchange.recipes.srtcluster import SiteChoices, import_cluster
from ratematch.inputs.clusterfile import parse_cluster
from ratematch.plan.cluster import Container, TimeLimit
from ratematch.slurm.survey import read_minutes

FULL = """\
cluster: oak
default_account: llm
default_partition: batch
default_time_limit: "4:00:00"
gpus_per_node: 4
default_gpu_type: gb200
network_interface: enp1
use_gpus_per_node_directive: true
use_segment_sbatch_directive: true
use_exclusive_sbatch_directive: true
preflight: false
default_sbatch_directives:
  exclude: [oak07, oak11]
  qos: high
  constraint: nvl
  nodes: 4
default_health_check: {max_attempts: 180, interval_seconds: 10}
srtctl_root: /opt/srt
output_dir: /scratch/out
model_paths:
  dsr1: /models/DeepSeek-R1-0528-NVFP4
  homemade: /models/homemade
containers:
  trtllm-1.2: /images/trtllm.sqsh
  nginx: nginx
default_mounts:
  /models: /models
  /scratch/x: /work
cloud: {endpoint_url: x}
surprise: 1
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "srtslurm.yaml"
    path.write_text(text)
    return path


def test_every_key_arrives_or_is_listed(tmp_path: Path) -> None:
    profile = import_cluster(write(tmp_path, FULL), SiteChoices())
    cluster = parse_cluster(profile.text, "oak.yaml")
    assert (cluster.name, cluster.gpu, cluster.gpus_per_node, cluster.nodes) == ("oak", "gb200", 4, 18)
    slurm = cluster.slurm
    assert (slurm.partition, slurm.account, slurm.qos) == ("batch", "llm", "high")
    assert slurm.time == TimeLimit(max_minutes=240)
    assert (slurm.segment, slurm.gpus, slurm.exclusive) == (18, "gpus-per-node", True)
    assert (slurm.exclude, slurm.sbatch) == (("oak07", "oak11"), ("--constraint=nvl",))
    assert cluster.container == Container("/images/trtllm.sqsh", ("/models:/models", "/scratch/x:/work"))
    assert cluster.model_paths == {"deepseek-r1": "/models/DeepSeek-R1-0528-NVFP4"}
    assert (cluster.ready_minutes, cluster.check_paths) == (30.0, False)
    assert {left.where.partition(": ")[2] for left in profile.unsupported} == {
        *("network_interface", "srtctl_root", "output_dir", "cloud", "surprise"),
        *("default_sbatch_directives.nodes", "model_paths.homemade", "containers.nginx"),
    }


def test_what_the_file_leaves_out_is_assumed_and_said(tmp_path: Path) -> None:
    profile = import_cluster(
        write(tmp_path, "default_partition: gpu\n"), SiteChoices(gpu="H200", nodes=6, name="hop")
    )
    cluster = parse_cluster(profile.text, "hop.yaml")
    assert (cluster.gpu, cluster.gpus_per_node, cluster.nodes, cluster.container) == ("h200", 8, 6, None)
    # srt-slurm's own defaults: one segment with all nodes of a job, no exclusive nodes.
    assert (cluster.slurm.segment, cluster.slurm.exclusive) == (6, False)
    assert any("gpus_per_node is not in the file" in note for note in profile.notes)


def test_values_that_a_launcher_fills_in_are_left_to_the_reader(tmp_path: Path) -> None:
    text = "cluster: x\ndefault_account: ${ACCOUNT}\ndefault_partition: batch\ncontainers: {trt: '${IMAGE}'}\n"
    profile = import_cluster(write(tmp_path, text), SiteChoices(gpu="b200"))
    assert parse_cluster(profile.text, "x.yaml").slurm.account is None
    assert [left.value for left in profile.unsupported] == ["${ACCOUNT}", {"trt": "${IMAGE}"}]
    assert any("default_account is filled in" in note for note in profile.notes)


@pytest.mark.parametrize(
    ("directives", "gpus", "segment"),
    [
        ("use_gpus_per_node_directive: false\n", "none", 18),
        ("gpu_sbatch_directive: gres\n", "gres", 18),
        ("use_segment_sbatch_directive: false\n", "gpus-per-node", None),
    ],
)
def test_directives(tmp_path: Path, directives: str, gpus: str, segment: int | None) -> None:
    profile = import_cluster(write(tmp_path, directives), SiteChoices(gpu="gb300"))
    slurm = parse_cluster(profile.text, "x.yaml").slurm
    assert (slurm.gpus, slurm.segment) == (gpus, segment)


def test_a_registry_is_spelled_as_pyxis_wants_it(tmp_path: Path) -> None:
    text = "containers: {release: 'nvcr.io/nvidia/tensorrt-llm/release:1.2.0'}\n"
    profile = import_cluster(write(tmp_path, text), SiteChoices(gpu="b200"))
    container = parse_cluster(profile.text, "x.yaml").container
    assert container is not None and container.image == "nvcr.io#nvidia/tensorrt-llm/release:1.2.0"
    assert container.file is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default_partition: batch\n", "names no GPU type (give --gpu, one of b200"),
        ("default_gpu_type: tpu\n", "srtslurm.yaml:1: default_gpu_type: GPU 'tpu' is not known"),
        ("default_gpu_type: b200\ngpus_per_node: many\n", "srtslurm.yaml:2: gpus_per_node: must be a whole number"),
        (
            "default_gpu_type: b200\ndefault_time_limit: soon\n",
            "srtslurm.yaml:2: default_time_limit: 'soon' is no time",
        ),
        ("default_gpu_type: b200\ncontainers: x\n", "srtslurm.yaml:2: containers: must be a map"),
        ("- a\n", "srtslurm.yaml:1: is no map of keys"),
        ("default_gpu_type: b200\ncontainers: {trt: /a.sqsh}\ndefault_mounts: {rel: /x}\n", "'rel:/x' is no mount"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        import_cluster(write(tmp_path, text), SiteChoices())
    assert message in str(caught.value)


@given(st.integers(0, 9), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_times_are_read_as_slurm_does(days: int, hours: int, minutes: int, seconds: int) -> None:
    assert read_minutes(f"{minutes}") == minutes
    assert read_minutes(f"{minutes}:{seconds:02}") == minutes
    assert read_minutes(f"{hours}:{minutes:02}:{seconds:02}") == hours * 60 + minutes
    assert read_minutes(f"{days}-{hours}") == (days * 24 + hours) * 60
    assert read_minutes(f"{days}-{hours}:{minutes:02}") == (days * 24 + hours) * 60 + minutes
    assert read_minutes(f"{days}-{hours}:{minutes:02}:{seconds:02}") == (days * 24 + hours) * 60 + minutes


def test_by_the_command_a_person_types(tmp_path: Path) -> None:
    file, output = write(tmp_path, FULL), tmp_path / "oak.yaml"
    done = CliRunner().invoke(main, ["import", "cluster", str(file), "-o", str(output)], catch_exceptions=False)
    assert done.exit_code == 0 and done.stdout == f"{output}\n"
    assert "no counterpart: " in done.stderr and "surprise" in done.stderr
    assert parse_cluster(output.read_text(), "oak.yaml").name == "oak"
    again = CliRunner().invoke(main, ["import", "cluster", str(file), "-o", str(output)], catch_exceptions=False)
    assert again.exit_code == 1 and "is there already" in again.stderr


NESTED = """\
cluster:
  account: llm
  partition: batch
  network_interface: enp6
  gpus_per_node: 4
  {limit}: "4:00:00"
  {container}: /images/trtllm.sqsh
model_paths: {{dsr1: /models/DeepSeek-R1}}
"""


@pytest.mark.parametrize(
    ("limit", "container"),
    [("time_limit", "container_image"), ("default_time_limit", "default_container"), ("time_limit", "container")],
)
def test_the_oldest_form_is_read_as_todays(tmp_path: Path, limit: str, container: str) -> None:
    text = NESTED.format(limit=limit, container=container)
    profile = import_cluster(write(tmp_path, text), SiteChoices(gpu="gb200", name="elder"))
    cluster = parse_cluster(profile.text, "elder.yaml")
    assert (cluster.name, cluster.gpus_per_node, cluster.slurm.account) == ("elder", 4, "llm")
    assert (cluster.slurm.partition, cluster.slurm.time) == ("batch", TimeLimit(max_minutes=240))
    assert cluster.container == Container("/images/trtllm.sqsh")
    assert cluster.model_paths == {"deepseek-r1": "/models/DeepSeek-R1"}
    assert [left.where.partition(": ")[2] for left in profile.unsupported] == ["network_interface"]
    assert "srtslurm.yaml:4" in profile.unsupported[0].where, "its own line"
    assert any("oldest form" in note for note in profile.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster: {account: a}\ndefault_account: b\n", "srtslurm.yaml:1: cluster.account: means default_account"),
        ("cluster:\n  account: 5\n", "srtslurm.yaml:2: default_account: must be text, not 5 (put it in quotes)"),
        ("cluster:\n  gpus_per_node: ²\n", "srtslurm.yaml:2: gpus_per_node: must be a whole number"),
        ("cluster: [a]\n", "srtslurm.yaml:1: cluster: must be text, not a list"),
        ("cluster: oak\ndefault_account: {a: b}\n", "srtslurm.yaml:2: default_account: must be text, not a map"),
        ('cluster: "\\ud800"\n', "holds the control character U+D800"),
        ("gpus_per_node: .inf\n", "gpus_per_node: must be a finite number"),
        ('default_time_limit: "²:00"\n', "is no time of Slurm"),
        ("default_health_check: {max_attempts: 9, interval_seconds: .inf}\n", "must be a finite number"),
    ],
)
def test_mistakes_of_any_form_are_told_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        import_cluster(write(tmp_path, text), SiteChoices(gpu="b200"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_long_name_is_cut(tmp_path: Path) -> None:
    profile = import_cluster(write(tmp_path, f"cluster: {'n' * 300}\n"), SiteChoices(gpu="b200"))
    assert profile.name == "n" * 100
