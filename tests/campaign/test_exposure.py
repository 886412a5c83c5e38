"""What `ratematch doctor` says of secrets that everybody can read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.campaign.exposure import check_exposure
from ratematch.plan import cluster as clusters
from ratematch.plan import experiment as experiments
from ratematch.plan.deployment import Deployment
from ratematch.store.folder import Results
from tests.support.invented import AGG, LAPTOP, experiment

CANARY = "hf_canary4711"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def problems(folder: Path, profile: Path | None = None) -> list[str]:
    found = check_exposure(folder, profile)
    assert CANARY not in str(found)
    return [each.found for each in found if not each.ok]


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        (f"environment: {{HF_TOKEN: {CANARY}}}\n", True),
        (f"ifb: {{environment: {{PLAIN: !secret {CANARY}}}}}\n", True),
        ("environment: {HF_TOKEN: !secret env:HF_TOKEN}\n", False),
        ("environment: {HF_TOKEN: '***', TOKENIZERS_PARALLELISM: 'false'}\n", False),
        ("a: [\n", False),
    ],
)
def test_sweeps_and_profiles_with_a_secret_are_for_their_owner_alone(here: Path, text: str, bad: bool) -> None:
    for place in ("profile.yaml", "sweeps/one.yaml", "slurm/clusters/two.yaml"):
        file = here / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o644)
        found = problems(here, here / "profile.yaml" if place == "profile.yaml" else None)
        assert len(found) == bad and all(f"chmod 600 {place}" in each or str(file) in each for each in found)
        file.chmod(0o600)
        assert problems(here) == []


def test_results_of_an_earlier_version_that_hold_one(here: Path) -> None:
    agg = AGG.agg
    assert agg is not None
    results = Results(here / "results" / "mini")
    asked = experiment(deployment=Deployment(agg=replace(agg, environment={"API_KEY": CANARY})))
    folder = results.add(asked, LAPTOP)
    old = clusters.to_json(replace(LAPTOP, environment={"HF_TOKEN": CANARY}))
    (folder.path / "cluster.json").write_text(json.dumps(old))
    for file in ("cluster.json", "experiment.json"):
        (folder.path / file).chmod(0o644)
    for place in (here, results.path.parent, results.path, folder.path):
        found = problems(place)
        assert len(found) == 2 and "API_KEY" in found[0] and "HF_TOKEN" in found[1], place
    for file in ("cluster.json", "experiment.json"):
        (folder.path / file).chmod(0o640)
    assert problems(here) == []
    assert experiments.from_json(json.loads((folder.path / "experiment.json").read_text())) == asked
