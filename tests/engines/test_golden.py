"""The committed launch files are what is rendered today, and the contract takes them."""

from __future__ import annotations

import pytest
import yaml

from ratematch.engines import find_engine
from ratematch.engines.trtllm_serve import render as rendering
from tests.engines.golden import EACH, FOLDER, experiment_of, launch, render


@pytest.mark.parametrize(("name", "version"), EACH)
def test_rendered_files_are_the_committed_ones(name: str, version: str) -> None:
    """After a change that was meant: python -m tests.engines.golden, and read the diff."""
    folder = FOLDER / name / version
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == render(name, version)


@pytest.mark.parametrize(("name", "version"), EACH)
def test_the_contract_takes_every_case(name: str, version: str) -> None:
    assert find_engine("trtllm-serve").check_launch(launch(name, version), experiment_of(name, version)) == []


def test_no_file_is_left_over() -> None:
    assert {(folder.parent.name, folder.name) for folder in FOLDER.glob("*/*")} == set(EACH)


@pytest.mark.parametrize(("name", "version"), EACH)
def test_the_text_is_the_same_without_libyaml(name: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "DUMPER", yaml.SafeDumper)
    files = {file.path: file.content for file in launch(name, version).files}
    assert files.items() <= {path.name: path.read_text() for path in (FOLDER / name / version).iterdir()}.items()
