"""A workload's files are looked at by plan, before any server is started for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ratematch.cli import main
from ratematch.loadgen.client import Target
from ratematch.loadgen.shards import LoadJob
from ratematch.plan.experiment import seed_of
from ratematch.plan.load import Concurrency, Load, Rate
from ratematch.plan.workload import Workload
from tests.support.invented import experiment


def plan(*overrides: str) -> Result:
    argv = [word for override in overrides for word in ("--set", override)]
    return CliRunner().invoke(main, ["plan", "quickstart", *argv], catch_exceptions=False)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (["),
        ("", "holds no request"),
        ("root:x:0:0:root:/root:/bin/bash\n", ":1: no JSON"),
        ('{"promt": "x"}\n', ":1: no prompt is read from its fields (promt); did you mean 'prompt'"),
        ('{"isl": 10, "osl": 4}\n{"hash_ids": [1]}\n', ":2: has hash_ids and no input_length"),
        ('{"isl": 1000000, "osl": 4}\n', "no request fits into ISL"),
        (
            '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}\n',
            "go to the chat API",
        ),
    ],
)
def test_plan_refuses_a_data_set_that_a_job_would_refuse(content: str | None, says: str, tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    if content is not None:
        file.write_text(content)
    result = plan(f"workloads.0.file={file}")
    assert result.exit_code == 1 and says in result.stderr
    assert str(file) in result.stderr and "unexpected" not in result.stderr


@pytest.mark.parametrize("path", ["/dev/zero", "/etc", "/dev/null"])
def test_devices_and_folders_are_no_data_sets(path: str) -> None:
    result = plan(f"workloads.0.file={path}")
    assert result.exit_code == 1 and f"{path}: is no regular file" in result.stderr


def test_real_text_is_looked_for_too(tmp_path: Path) -> None:
    assert "cannot be read" in plan("workloads.0.text=/no/such", "workloads.0.tokenizer=/t").stderr
    (tmp_path / "book.txt").write_text("words")
    assert "give a tokenizer too" in plan(f"workloads.0.text={tmp_path / 'book.txt'}").stderr


def test_a_trace_is_replayed_only_where_its_unit_is_known(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps({"timestamp": k / 2, "isl": 10, "osl": 4}) + "\n" for k in range(4)))
    replay = (f"workloads.0.file={file}", "ifb.loads={replay: 1, num_requests: 4}")
    result = plan(*replay)
    assert result.exit_code == 1 and "give the workload time_unit: s or ms" in result.stderr
    said = plan(*replay, "workloads.0.time_unit=s")
    assert said.exit_code == 0, said.stderr
    assert (
        "workloads.0.time_unit" in plan(*replay, "workloads.0.time_unit=h").stderr
        or "time_unit" in plan(*replay, "workloads.0.time_unit=h").stderr
    )
    assert plan(f"workloads.0.file={file}").exit_code == 0, "a closed loop needs no unit"


def test_loads_and_repeats_of_an_experiment_share_no_beginning_of_a_prompt() -> None:
    """They are sent to the same servers, whose prefix cache would answer."""
    loads: tuple[Load, ...] = (
        *(Concurrency(2, 12, 2, repeat) for repeat in range(3)),
        *(Concurrency(4, 12, 1), Rate(2.0, 12, warmup=1), Rate(4.0, 12, warmup=1)),
    )
    for workload in (Workload(64, 8), Workload(64, 8, prefix_share=0.5), Workload(64, 8, turns=3)):
        one = experiment(workload=workload, loads=loads)
        begun: list[set[bytes]] = []
        for load in loads:
            job = LoadJob(Target("http://h", "m"), load, workload, 32000, seed_of(one, load))
            requests, warmup = job.make_requests(job.source())
            begun.append({spec.prompt[:16].tobytes() for spec in (*requests, *warmup)})
        assert sum(map(len, begun)) == len(set.union(*begun))
