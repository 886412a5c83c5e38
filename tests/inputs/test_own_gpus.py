"""GPU types that people add: where their files are, what they may say, and that they reach servers and figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ratematch.cli import main
from ratematch.emulator.environment import read_environment
from ratematch.emulator.trtllm.assembly import build
from ratematch.emulator.trtllm.settings import worker_settings
from ratematch.errors import CatalogError, ClusterError
from ratematch.inputs.catalog import gpu_names, known_gpus, load_gpu
from ratematch.inputs.find import read_cluster
from ratematch.plan.cluster import from_json, to_json

FIGURES = """\
memory_b: 200e9
memory_b_s: 9e12
flops: {bf16: 3e15, fp8: 6e15, nvfp4: 12e15}
nvlink_b_s: 900.0e+9
network_b_s: 100.0e+9
nvlink_domain: 8
precision: nvfp4
"""
PROFILE = "name: lab\ngpu_kind\ngpus_per_node: 8\nnodes: 4\nemulated: true\n"


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RATEMATCH_GPUS", raising=False)
    monkeypatch.delenv("RATEMATCH_CLUSTERS", raising=False)


def write(path: Path, name: str = "x900", more: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"name: {name}\n{FIGURES}{more}")
    return path


def profile(folder: Path, gpu: str, name: str = "lab.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PROFILE.replace("gpu_kind", f"gpu: {gpu}"))
    return path


def test_of_several_places_for_gpus_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATEMATCH_GPUS", f"{tmp_path / 'nowhere'}:{tmp_path / 'site'}")
    places = [Path("gpus"), tmp_path / "site", tmp_path / "home" / "ratematch" / "gpus"]
    for number, place in enumerate(places):
        write(place / "b200.yaml", "b200", f"source: place {number}\n")
    for number, place in enumerate(places):
        assert load_gpu("b200").source == f"place {number}"
        shutil.rmtree(place)
    assert "HGX" in load_gpu("B200").source or "DGX" in load_gpu("B200").source, "the package's own"


@pytest.mark.parametrize("spelled", ["x900", "X900", "strange", "x900-sxm", "X900_SXM", "strange.yaml"])
def test_a_file_goes_by_its_name_its_contents_and_its_aliases(spelled: str) -> None:
    write(Path("gpus") / "strange.yaml", "X900", "aliases: [x900-sxm, X900_SXM]\n")
    gpu = load_gpu(spelled)
    assert (gpu.name, gpu.memory_b, gpu.flops["fp8"]) == ("x900", 200e9, 6e15)
    assert gpu.file == str((Path("gpus") / "strange.yaml").absolute())
    assert "x900" in known_gpus() and "x900" not in gpu_names()


@pytest.mark.parametrize("where", ["here", "beside the profile", "absolute", "home"])
def test_a_profile_may_name_the_path_of_a_file(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    spelled = {"here": "./mine.yaml", "beside the profile": "gpus/mine.yaml", "home": "~/mine.yaml"}
    target = {
        "here": Path("mine.yaml"),
        "beside the profile": site / "gpus" / "mine.yaml",
        "home": tmp_path / "mine.yaml",
    }
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(target.get(where, tmp_path / "mine.yml"))
    cluster = read_cluster(str(profile(site, spelled.get(where, str(path)))))
    assert (cluster.gpu, cluster.gpu_file) == ("x900", str(path.absolute()))
    assert from_json(json.loads(json.dumps(to_json(cluster)))) == cluster, "kept with results"


def test_a_gpu_of_the_package_leaves_no_trace_in_results(tmp_path: Path) -> None:
    assert "gpu_file" not in to_json(read_cluster(str(profile(tmp_path, "h200"))))


def test_an_own_gpu_is_planned_imported_and_emulated(tmp_path: Path) -> None:
    path = write(Path("figures.yaml"))
    profile(Path("slurm/clusters"), "./figures.yaml")
    planned = CliRunner().invoke(main, ["plan", "quickstart", "--cluster", "lab", "--json"])
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["gpu"] == "x900"
    rendered = CliRunner().invoke(
        main,
        ["render", "quickstart", "--cluster", "lab", "-o", str(tmp_path / "out"), "--experiment", "gen1xDEP4-mtp1"],
    )
    assert rendered.exit_code == 0, rendered.output
    script = next((tmp_path / "out").rglob("run.sh")).read_text()
    assert f"RATEMATCH_EMULATED_GPU={path.absolute()}" in script
    config = yaml.safe_load(next((tmp_path / "out").rglob("gen.yaml")).read_text())
    settings = worker_settings("deepseek-r1", {}, set(), config, "1.2")
    mine, other = (
        build(settings, read_environment({"RATEMATCH_EMULATED_GPU": gpu})).scheduler.config.kv_blocks
        for gpu in (str(path.absolute()), "gb300")
    )
    assert 0 < mine < other, "its own memory counts"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\n", "required key 'memory_b' is missing"),
        (f"name: x\n{FIGURES}memory: 5\n", "x.yaml:9: memory: unknown key 'memory' (valid keys: name, source"),
        (f"name: x\n{FIGURES}".replace("200e9", "big"), "memory_b: must be a valid number"),
        (f"name: x\n{FIGURES}".replace("200e9", "200"), "memory_b: must be greater than or equal to 1000000000"),
        (f"name: x\n{FIGURES}".replace("200e9", ".inf"), "memory_b: must be"),
        (f"name: x\n{FIGURES}".replace("9e12", "true"), "memory_b_s: must be a number"),
        (f"name: x\n{FIGURES}".replace("nvfp4: 12e15", "fp5: 1e15"), "flops.fp5: 'fp5' is no number format"),
        (f"name: x\n{FIGURES}".replace("bf16: 3e15, ", ""), "flops: has no bf16"),
        (f"name: x\n{FIGURES}".replace("precision: nvfp4", "precision: fp3"), "precision: 'fp3' stands not in flops"),
        (f"name: ../x\n{FIGURES}", "name: '../x' is no file name"),
        ("- a\n", "a GPU file is a map of keys"),
        ("", "the file is empty"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_gpu_file_is_one_line_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    Path("x.yaml").write_text(text)
    with pytest.raises(CatalogError) as caught:
        load_gpu("./x.yaml")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ClusterError) as refused:
        read_cluster(str(profile(tmp_path, "./x.yaml")))
    assert "lab.yaml:2: gpu: " in str(refused.value)


def test_an_unknown_gpu_says_what_is_near_and_how_to_add_one() -> None:
    write(Path("gpus") / "x900.yaml")
    write(Path("gpus") / "broken.yaml", more="surprise: 1\n")
    with pytest.raises(CatalogError, match=r"'x990' is not known; did you mean x900\?.*gpus/x990\.yaml"):
        load_gpu("x990")
    with pytest.raises(
        CatalogError, match=r"'y1' is not known; left out: gpus/broken\.yaml:9: surprise: unknown key"
    ):
        load_gpu("y1")
    with pytest.raises(CatalogError, match="surprise: unknown key"):
        load_gpu("broken")
    with pytest.raises(CatalogError, match=r"there is no GPU file \./gone\.yaml"):
        load_gpu("./gone.yaml")
    for odd in ("a" * 300, "\0", "é²", ""):
        with pytest.raises(CatalogError, match=r"is not known"):
            load_gpu(odd)


def test_the_keys_of_a_gpu_file_are_in_the_reference() -> None:
    readme = (Path(__file__).parents[2] / "slurm" / "README.md").read_text()
    example = readme.partition("## GPU types")[2].partition("```yaml\n")[2].partition("```")[0]
    write(Path("gpus") / "example.yaml").write_text(example)
    assert load_gpu("example").file


def test_a_site_file_may_name_an_own_gpu(tmp_path: Path) -> None:
    write(Path("gpus") / "x900.yaml")
    Path("srtslurm.yaml").write_text("default_gpu_type: X900\ngpus_per_node: 8\n")
    done = CliRunner().invoke(main, ["import", "cluster", "srtslurm.yaml", "-o", "lab.yaml"])
    assert done.exit_code == 0, done.output
    assert read_cluster("./lab.yaml").gpu_file == str((Path("gpus") / "x900.yaml").absolute())
    Path("srtslurm.yaml").write_text("default_gpu_type: x990\n")
    told = CliRunner().invoke(main, ["import", "cluster", "srtslurm.yaml"])
    assert "did you mean x900?" in told.output and "gpus/x990.yaml" in told.output
