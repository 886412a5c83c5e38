"""The command line: help, exit codes, one line for a mistake, JSON alone on stdout."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ratematch.cli import main
from ratematch.inputs.find import read_cluster
from ratematch.store.folder import Results
from tests.support.invented import GEN, PAIR, experiment

ROOT = Path(__file__).parents[2]
VERBS = (
    "plan",
    "render",
    "sweep",
    "run",
    "status",
    "load",
    "pareto",
    "report",
    "compare",
    "doctor",
    "diagnose",
    "calibrate",
)


def call(*argv: str) -> Result:
    return CliRunner().invoke(main, list(argv), catch_exceptions=False)


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    return ROOT


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    result = call(verb, "--help")
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert f"ratematch {verb}" in result.stdout.split("Example:")[1]


@pytest.mark.parametrize("verb", ["plan", "status", "pareto", "sweep", "load", "doctor"])
def test_reading_verbs_have_json(verb: str) -> None:
    assert "--json" in call(verb, "--help").stdout


def test_plan_of_the_quickstart(root: Path) -> None:
    result = call("plan", "quickstart.yaml", "--json")
    assert result.exit_code == 0
    plan = json.loads(result.stdout)
    assert plan["emulated"] is True
    assert {stage["stage"] for stage in plan["stages"]} == {"ctx", "gen", "ifb", "e2e"}
    assert plan["gpu_hours"] == pytest.approx(sum(stage["gpu_hours"] for stage in plan["stages"]))
    assert plan["assumptions"]
    output = call("plan", "sweeps/quickstart.yaml").stdout
    assert "EMULATED" in output and "GPU-hours" in output and "assumed:" in output


def test_sweep_files_are_found_by_name_here_and_in_sweeps(root: Path) -> None:
    for name in ("quickstart", "quickstart.yaml", "sweeps/quickstart.yaml"):
        assert call("plan", name, "--json").exit_code == 0
    missing = call("plan", "no-such-sweep")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("ratematch: no-such-sweep: no such sweep file")
    assert "quickstart.yaml" in missing.stderr


def test_set_lies_over_the_file(root: Path) -> None:
    plan = json.loads(call("plan", "quickstart", "--set", "gen.axes.mapping=DEP8", "--json").stdout)
    assert any("gen1xDEP8" in experiment["label"] for experiment in plan["experiments"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["plan", "quickstart", "--set", "clutser=x"], "unknown key 'clutser'"),
        (["plan", "quickstart", "--set", "gen.axes.tp=4"], "mapping already says tp"),
        (["plan", "quickstart", "--set", "cluster=nowhere"], "there is no cluster profile 'nowhere'"),
        (["plan", "quickstart", "--set", "gen.options.max_batch_sise=4"], "max_batch_size"),
        (["status", "results/nowhere"], "no such results folder"),
        (["pareto", "results/nowhere"], "no such results folder"),
        (["pareto"], "Missing argument"),
        (["pareto", "results/sample", "--figure", "8"], "'8' is not one of"),
        (["report", "results/nowhere"], "no such results folder"),
        (["report", "results/sample", "--at", "fast"], "write tok/s/user"),
        (["load", "http://localhost:1", "--model", "m"], "no load: give --concurrency"),
        (["load", "http://localhost:1", "--model", "m", "--concurrency", "a"], "write numbers with commas"),
        (["load", "http://localhost:1", "--model", "m", "--concurrency", "0"], "greater than 0"),
        (["load", "http://x:1", "--model", "m", "--concurrency", "1", "--api-key-env", "NO_SUCH_KEY"], "not set"),
        (["plan", "quickstart", "--colour"], "No such option"),
        (["--colour"], "No such option"),
    ],
)
def test_mistakes_are_one_line_and_exit_1(root: Path, argv: list[str], message: str) -> None:
    result = call(*argv)
    assert result.exit_code == 1, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_bug_is_one_line_too_unless_debugging(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("ratematch.inputs.find.read_sweep", broken)
    result = call("plan", "quickstart")
    assert result.exit_code == 1
    assert result.stderr == "ratematch: unexpected ZeroDivisionError: oops (--debug shows where)\n"
    with pytest.raises(ZeroDivisionError):
        call("--debug", "plan", "quickstart")


def test_nobody_listening_is_told_and_exit_3(root: Path) -> None:
    result = call(
        "load", "http://127.0.0.1:1", "--model", "m", "--concurrency", "2", "--num-requests", "3", "--warmup", "0"
    )
    assert result.exit_code == 3
    assert "no request was answered" in result.stderr
    assert "not valid" in result.stdout


def test_doctor_looks_at_the_machine_and_the_cluster(root: Path) -> None:
    report = json.loads(call("doctor", "--cluster", "laptop", "--json").stdout)
    assert report["ok"] is True
    assert {"software", "results disk", "cluster laptop"} <= {check["name"] for check in report["checks"]}
    bad = call("doctor", "--cluster", "nowhere")
    assert bad.exit_code == 1
    assert "no cluster profile" in bad.stdout


def test_figures_of_the_study_come_from_the_sample_right_after_a_clone(root: Path, tmp_path: Path) -> None:
    result = call("pareto", "results/sample", "--figure", "9", "-o", str(tmp_path))
    assert result.exit_code == 0, result.stderr
    assert [Path(line).name for line in result.stdout.split()] == ["figure-9.png", "figure-9.svg", "figure-9.csv"]
    rows = (tmp_path / "figure-9.csv").read_text("utf-8").splitlines()[1:]
    assert rows and all(row.split(",")[5] == "0" for row in rows), "without MTP"


def test_report_says_in_the_page_how_it_was_made(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["report", "results/sample", "--at", "30", "-o", str(tmp_path / "page.html")]
    monkeypatch.setattr("sys.argv", ["ratematch", *argv])
    result = call(*argv)
    assert result.exit_code == 0 and result.stdout.strip() == str(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "ratematch report results/sample --at 30" in page and "for 30 tok/s/user" in page


def test_render_writes_one_folder_an_experiment(root: Path, tmp_path: Path) -> None:
    done = call("render", "quickstart", "--experiment", "gen-1024-48-gen1xDEP4-mtp1", "-o", str(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert done.exit_code == 0 and done.stdout == f"{folder}\n"
    assert {path.name for path in folder.iterdir()} == {"gen.yaml", "orchestrator.yaml", "placement.json", "run.sh"}
    unknown = call("render", "quickstart", "--experiment", "TEP99", "-o", str(tmp_path))
    assert unknown.exit_code == 1 and unknown.stderr.count("\n") == 1
    output = call("render", "quickstart", "--cluster", "gb200-nvl72", "-o", str(tmp_path), "--json")
    folders = json.loads(output.stdout)["rendered"]
    assert len(folders) == 7 and all("job.sbatch" in each["files"] for each in folders)


def test_render_knows_the_end_to_end_experiments_that_were_chosen(root: Path, tmp_path: Path) -> None:
    laptop = read_cluster("laptop")
    results = Results(tmp_path / "results")
    for stored in (experiment("e2e", PAIR), experiment("gen", GEN)):
        results.add(stored, laptop)
    output = ("-o", str(tmp_path / "out"), "--experiment", "e2e")
    without = call("render", "quickstart", *output)
    assert without.exit_code == 1 and "no experiment of this sweep is called 'e2e'" in without.stderr
    done = call("render", "quickstart", "--results", str(results.path), *output)
    assert done.exit_code == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name == experiment("e2e", PAIR).folder and (folder / "ctx.yaml").exists()


def test_diagnose_reads_the_logs_of_a_launch(tmp_path: Path) -> None:
    (tmp_path / "orchestrator.log").write_text("Client error to n0:8000: boom - last retry 1 of 1\n")
    (tmp_path / "gen-0.log").write_text("3: UCX CUDA support was not found\nTraceback (most recent call last):\n")
    done = call("diagnose", str(tmp_path))
    assert done.exit_code == 0 and done.stdout.startswith("cause: ")
    assert "UCX_TLS" in done.stdout and "row 8" in done.stdout
    one = json.loads(call("diagnose", str(tmp_path / "orchestrator.log"), "--json").stdout)
    assert one["known"] and one["reference"] == "list"
    (tmp_path / "calm.log").write_text("all is well\n")
    calm = call("diagnose", str(tmp_path / "calm.log"))
    assert calm.exit_code == 1 and calm.stdout == "no known cause in 1 logs\n"


def test_diagnose_reads_what_other_launchers_leave(tmp_path: Path) -> None:
    (tmp_path / "slurm-17.out").write_text("3: UCX CUDA support was not found\n")
    (tmp_path / "old.log").write_bytes(gzip.compress(b"torch.OutOfMemoryError: CUDA out of memory"))
    (tmp_path / "notes.md").write_text("Bus error\n")
    (tmp_path / "folder.log").mkdir()
    done = call("diagnose", str(tmp_path))
    assert done.exit_code == 0 and "UCX_TLS" in done.stdout
    assert done.stderr == f"note: {tmp_path / 'old.log'}: is packed (gzip); unpack it first\n"
    alone = call("diagnose", str(tmp_path / "old.log"))
    assert alone.exit_code == 1 and "is packed (gzip)" in alone.stderr and not alone.stdout
    empty = call("diagnose", str(tmp_path / "folder.log"))
    assert empty.exit_code == 1 and "no log here (*.log, *.out, *.err)" in empty.stderr
    (tmp_path / "w.log").write_bytes("torch.OutOfMemoryError: CUDA out of memory".encode("utf-16"))
    assert "out of GPU memory" in call("diagnose", str(tmp_path / "w.log")).stdout


def test_a_report_without_a_valid_point_is_written_and_exits_3(root: Path, tmp_path: Path) -> None:
    result = call("report", "results/sample", "--ttft-ms", "1", "-o", str(tmp_path / "page.html"))
    assert result.exit_code == 3 and "no valid point is left" in result.stderr
    assert "No speed-up over IFB can be stated" in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("option", "value", "wrong"),
    [
        ("--ttft-ms", "nan", "'nan' must be a finite number."),
        ("--ttft-ms", "inf", "'inf' must be a finite number."),
        ("--tpot-ms", "1e400", "'1e400' must be a finite number."),
        ("--tpot-ms", "1e12", "1000000000000.0 is not in the range"),
        ("--max-gpus", "9" * 5000, "must be a number up to 1e+18."),
        ("--max-gpus", "²", "'²' must be a whole number."),
        ("--max-gpus", "99999999", "is not in the range 2<=x<=1000000."),
        ("--osl", "0x10", "'0x10' must be a whole number."),
        ("--concurrency", "99999999999999999999", "whole numbers above 0"),
        ("--concurrency", "1,,2", "whole numbers above 0"),
    ],
)
def test_numbers_of_options_are_finite_and_bounded(option: str, value: str, wrong: str) -> None:
    result = call("match", "rates.csv", option, value)
    assert result.exit_code == 1 and wrong in result.stderr
    assert "unexpected" not in result.stderr and len(result.stderr) < 600


def test_what_the_machine_says_of_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = call("render", str(ROOT / "sweeps" / "quickstart.yaml"), "-o", str(tmp_path / "file" / "below"))
    assert result.exit_code == 1
    assert (
        result.stderr == f"ratematch: {tmp_path}/file/below: Not a directory\n" or "Not a directory" in result.stderr
    )
    assert "unexpected" not in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("argv", [["schema", "limits"], ["--help"]])
def test_output_that_finds_no_room_is_said(argv: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "ratematch", *argv]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "ratematch: what is printed cannot be written: No space left on device\n"


def test_text_of_a_table_cannot_reach_the_terminal(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("role,label,gpus,\x1b]0;owned\x07\nctx,a,\x1b[2J,\n")
    result = call("match", str(table))
    assert result.exit_code == 1 and "\x1b" not in result.stderr and "\x07" not in result.stderr
    assert "'\\x1b[2J' is not a number" in result.stderr


@pytest.mark.parametrize("name", ["pipe", "folder", "/dev/zero"])
def test_a_table_that_is_no_file_is_one_line(tmp_path: Path, name: str) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    result = call("match", str(tmp_path / name))
    assert result.exit_code == 1 and "cannot be read" in result.stderr and result.stderr.count("\n") == 1


def test_a_large_front_is_written_row_by_row(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(
        "role,label,gpus,isl,osl,concurrency,req_s,tok_s\nctx,a,4,1024,64,,40,\ngen,b,8,1024,64,8,,900\ngen,b,8,1024,64,64,,5100\n"
    )
    front = json.loads(call("match", str(table), "--max-gpus", "900", "--json").stdout)["front"]
    assert len(front) > 1000 and len({(row["tok_s_user"], row["tok_s_gpu"]) for row in front}) == len(front)
    assert [row["tok_s_user"] for row in front] == sorted(row["tok_s_user"] for row in front)
