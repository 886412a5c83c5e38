"""What SECURITY.md says, as far as it can be checked here; the canary tests (`tests/run/test_secrets.py`) check the
rest."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ratematch.cli import main
from ratematch.emulator.vllm.server import Server
from ratematch.plan.located import read_located
from ratematch.plan.printable import LONGEST_NAME
from ratematch.plan.secret import MASK, SHORTEST, is_secret, take_secrets
from ratematch.store import layout

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text("utf-8")


def between(start: str, end: str) -> str:
    return PAGE.partition(start)[2].partition(end)[0]


def test_readme_and_index_lead_to_it() -> None:
    assert "(SECURITY.md)" in (ROOT / "README.md").read_text("utf-8")
    assert "(../SECURITY.md)" in (ROOT / "docs" / "index.md").read_text("utf-8")


def test_the_words_of_names_are_those_of_the_page() -> None:
    words = re.findall(r"`([A-Za-z_]+)`", between("by whole words:", "* or whose value"))
    words = [word for word in words if word != "environment"]
    secrets = words[: words.index("TOKENIZERS_PARALLELISM")]
    assert len(secrets) > 17 and [word for word in secrets if not is_secret(f"MY_{word}", "x1y2z3w4")] == []
    others = words[words.index("TOKENIZERS_PARALLELISM") :]
    assert len(others) == 4 and [word for word in others if is_secret(word, "x1y2z3w4")] == []
    assert not is_secret("A_TOKEN", "999999") and is_secret("A_TOKEN", "9999999") and not is_secret("A_KEY", "on")


def test_its_example_is_read_as_it_says() -> None:
    located = read_located(between("```yaml\n", "```"), "page.yaml")
    secrets = take_secrets(located, [("environment",)])
    assert located.problems == [] and located.data["environment"] == {"HF_TOKEN": MASK, "LOGIN": MASK}
    assert secrets.values({"HF_TOKEN": "from here"}) == {"HF_TOKEN": "from here", "LOGIN": "the value itself"}


def test_its_numbers_and_names_are_those_of_the_code() -> None:
    assert f"at most {LONGEST_NAME} characters" in PAGE and SHORTEST == 4 and "at least four characters" in PAGE
    assert f"`RESULTS/EXPERIMENT/{layout.SECRETS}/{layout.ENVIRONMENT}`" in PAGE
    assert f"below `{layout.JOB_LOGS}/`, `{layout.JOBS}/`" in PAGE and f"`{MASK}`" in PAGE


def test_there_is_no_option_that_takes_a_key() -> None:
    options = {option for parameter in main.commands["load"].params for option in parameter.opts}
    assert "--api-key-env" in options and not options & {"--api-key", "--header", "--headers", "--password"}


@pytest.mark.parametrize("given", [None, "", "10.0.0.1"])
def test_an_emulated_server_listens_here_unless_it_is_told_otherwise(given: str | None) -> None:
    host = Server.host.fget  # type: ignore[attr-defined]
    assert host(SimpleNamespace(settings=SimpleNamespace(host=given))) == (given or "127.0.0.1")


def test_nothing_is_read_with_a_loader_that_runs_code() -> None:
    """YAML is read safely everywhere, and nothing but the result of a running job of ours is unpickled."""
    for path in (ROOT / "ratematch").rglob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r"\bpickle\b|yaml\.(unsafe|full)_load|yaml\.(Unsafe|Full|)Loader\b|\beval\(", text), path
    assert issubclass(yaml.SafeLoader, yaml.constructor.SafeConstructor)
