"""The recommended deployment as files: the servers that were measured, rendered as a sweep renders them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from ratematch.analysis import analyze
from ratematch.cli import main
from ratematch.errors import UserError
from ratematch.exchange.recipes.choices import Choices
from ratematch.exchange.recipes.convert import import_recipes
from ratematch.inputs.find import read_cluster
from ratematch.measure.measured import Measured
from ratematch.plan.experiment import from_json
from ratematch.report import deployment
from ratematch.report.bundles import make_bundles
from ratematch.store.folder import Results

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "results" / "sample"


def call(*argv: object) -> Result:
    return CliRunner().invoke(main, ["export", "deployment", *map(str, argv)], catch_exceptions=False)


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_measured_deployment_is_written_as_it_was_measured(tmp_path: Path) -> None:
    result = call(SAMPLE, "--at", "50 tok/s/user", "-o", tmp_path / "deploy", "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["origin"] == "measured" and content["emulated"] is True and content["figures"]["tok_s_user"] >= 50
    names = {path.name for path in (tmp_path / "deploy").iterdir()}
    assert {"ctx.yaml", "gen.yaml", "orchestrator.yaml", "run.sh", "placement.json", "deployment.json"} <= names
    measured = next(SAMPLE.glob(f"e2e-*-{content['deployment']}-*/launch/1"))
    for name in ("ctx.yaml", "gen.yaml"):
        was = yaml.safe_load((measured / name).read_text())
        # The sample was measured when files did not say it yet: what 1.2 runs where nothing is said, and for DEFAULT.
        was["cache_transceiver_config"] |= {"backend": "NIXL", "transceiver_runtime": "CPP"}
        assert yaml.safe_load((tmp_path / "deploy" / name).read_text()) == was


def test_another_cluster_gets_a_batch_script_and_its_own_nodes(tmp_path: Path) -> None:
    result = call(SAMPLE, "--at", "100", "--cluster", "gb200-nvl72", "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "#SBATCH" in (tmp_path / "job.sbatch").read_text("utf-8")
    placement = json.loads((tmp_path / "placement.json").read_text("utf-8"))
    assert all(place["node"].startswith("__NODE") for each in placement["instances"] for place in each["places"])
    about = json.loads((tmp_path / "deployment.json").read_text("utf-8"))
    assert about["cluster"] == "gb200-nvl72" and about["emulated"] is True, "what it was measured on stays said"
    recipe = import_recipes([str(tmp_path / "recipe.yaml")], Choices()).recipes[0]
    assert recipe.shape.partition(",")[0].count("x ") == 2 and "no_recipe" not in about


def test_a_predicted_deployment_is_put_together_from_its_measured_servers() -> None:
    results = Results(SAMPLE)
    inputs = analyze.read_inputs(results)
    apart = replace(inputs, measured=tuple(r for r in inputs.measured if r.experiment.stage in ("ctx", "gen")))
    (workload,) = analyze.analyze_inputs(apart).workloads
    handed = deployment.hand_over(results, apart.measured, workload, 100.0)
    point, servers = handed.recommendation.point, handed.experiment.deployment
    assert point is not None and servers.ctx is not None and servers.gen is not None
    assert servers.label == point.label and servers.ctx.mtp == servers.gen.mtp
    assert "not measured together" in json.loads(handed.files["deployment.json"])["origin"]
    (load,) = handed.experiment.loads
    assert load.label.startswith(f"c{round(point.concurrency)}-")
    assert "ctx.yaml" in handed.files and "gen.yaml" in handed.files


def test_what_cannot_be_handed_over_says_why(tmp_path: Path) -> None:
    for argv, message in (
        (("--at", "5000"), "no deployment gives 5000 tok/s/user; the fastest gives"),
        (("--at", "20,50"), "one speed, for one deployment"),
        (("--at", "50", "--workload", "1/1"), "no workload '1/1'; there are: 1024/64"),
        (("--at", "50", "--cluster", "nowhere"), "no cluster profile"),
    ):
        result = call(SAMPLE, *argv, "-o", tmp_path / "deploy")
        assert result.exit_code == 1 and message in result.stderr, result.stderr
    assert call(SAMPLE, "--at", "50", "-o", tmp_path / "deploy").exit_code == 0
    again = call(SAMPLE, "--at", "200", "-o", tmp_path / "deploy")
    assert again.exit_code == 1 and "--force" in again.stderr


def test_points_without_their_experiments_are_refused() -> None:
    results = Results(SAMPLE)
    inputs = analyze.read_inputs(results)
    (workload,) = analyze.analyze_inputs(inputs).workloads
    with pytest.raises(UserError, match="not in these results"):
        deployment.hand_over(results, (), workload, 50.0)


@pytest.mark.slow
def test_the_files_run(tmp_path: Path) -> None:
    """``bash run.sh``, with the emulator in the place of the servers: they start, take the load, and stop."""
    handed = deployment.export_deployment(SAMPLE, 260.0, cluster=read_cluster("laptop"))
    deployment.write_handover(handed, tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "run.sh"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_secrets_that_an_earlier_version_stored_are_not_handed_around(tmp_path: Path) -> None:
    canary = "hf_c4n4ry4711"
    results = tmp_path / "sample"
    for source in SAMPLE.rglob("*.*"):
        if source.is_file() and "report" not in source.parts:
            target = results / source.relative_to(SAMPLE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    for file in results.glob("*/cluster.json"):
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "environment": {"HF_TOKEN": canary, "A": "b"}}))
    for file in sorted(results.glob("*/experiment.json")):
        content = json.loads(file.read_text())
        for group in content["deployment"].values():
            if isinstance(group, dict) and "mapping" in group:
                group["environment"] = {"MY_API_KEY": canary}
        file.write_text(json.dumps(content))
        file.parent.rename(file.parent.with_name(from_json(content).folder))
    opened = Results.open(results)
    inputs = analyze.read_inputs(opened)
    (workload,) = analyze.analyze_inputs(inputs).workloads
    files = deployment.hand_over(opened, inputs.measured, workload, 50.0)
    script = files.files["run.sh"]
    assert "A=b" in script and all(f"${{{name}:?set {name}" in script for name in ("HF_TOKEN", "MY_API_KEY"))
    assert canary not in repr(files)
    bundles = make_bundles(opened, inputs, workload, [files.recommendation], 1)
    assert script in [file.content for file in bundles[50.0].files] and canary not in repr(bundles)


def test_a_deployment_that_is_handed_around_forces_no_drafts() -> None:
    """Its figures may be of forced ones; whoever starts it wants answers."""

    def forcing(row: Measured) -> Measured:
        workload = replace(row.experiment.workload, forced_acceptance="1:1.5 3:2.5")
        changed = replace(row.experiment, workload=workload)
        vars(changed)["id"] = row.experiment.id  # points name their experiments
        return replace(row, experiment=changed)

    results = Results(SAMPLE)
    inputs = analyze.read_inputs(results)
    (workload,) = analyze.analyze_inputs(inputs).workloads
    handed = deployment.hand_over(results, tuple(map(forcing, inputs.measured)), workload, 50.0)
    assert not handed.experiment.workload.forced_acceptance
    assert "FORCE_NUM_ACCEPTED_TOKENS=" not in handed.files["run.sh"]
    about = json.loads(handed.files["deployment.json"])
    assert about["forced_acceptance"].startswith("figures are with drafts accepted by force, 1:1.5 3:2.5; these")
