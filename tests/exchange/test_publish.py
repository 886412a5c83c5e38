"""A published copy names nobody and no place, whatever file a name was in, and is read as the folder it is of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ratematch as rm
from ratematch.analysis.analyze import read_inputs
from ratematch.analysis.verify import verify
from ratematch.cli import main
from ratematch.exchange.publish import folder as publishing
from ratematch.exchange.publish.cleaner import Cleaner
from ratematch.exchange.publish.folder import Wanted, publish
from ratematch.exchange.publish.known import Known, collect_text, collect_value
from ratematch.exchange.publish.scan import _of_text, scan
from ratematch.exchange.publish.texts import clean_yaml, cut_log, strings_of
from ratematch.plan import experiment as experiments
from ratematch.store import checksums, layout
from ratematch.store.files import write_json
from ratematch.store.folder import Results
from ratematch.store.published import read_published
from ratematch.store.records import write_records
from tests.support.examples import examples

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "results" / "sample"
EXPERIMENTS = (
    "ctx-1024-1-ctx1xDEP4-mtp0-5e2166afd9",
    "gen-1024-64-gen1xTEP4-mtp0-de96c318c2",
    "e2e-1024-64-ctx1xDEP4-gen1xTEP4-mtp3-64e4744105",
)

USER, HOST, SHORT = "marlene", "frost-a17.hpc.uni-nordheim.de", "frost-a17"
PLANTED = (
    USER,
    HOST,
    SHORT,
    "10.41.7.203",
    "192.0.2.99",
    "fd12:3456:789a:1::4d",
    "fe80::1ff:fe23:4567:890a",
    "marlene.hagen@uni-nordheim.de",
    "someone@example.com",
    "/home/marlene/runs/r1",
    "/lustre/fs7/projects/aurelia/weights/Qwen3-8B",
    "hf_QpLzYtKmWxVbNcRdEfGh",
    "sk-proj-9aXbY2cZ8dWe7fVg6hUi",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtIn0.abc",
    "GPU-5d1f8e2a-7c3b-4f60-9a1d-2b3c4d5e6f70",
    "d4a7e3b8-8511-44e5-874f-3f3537a0901d",
    "gpu-node-017",
    "nid004213",
    "3c:ec:ef:12:34:56",
    "aurelia-batch",
    "Tuesday-Secret-77",
    "registry.uni-nordheim.de",
)
LINES = "\n".join(f"E{number} worker says: {name}: refused" for number, name in enumerate(PLANTED))


def loads_of(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob("*/loads/*/loadrun.json"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three experiments of the sample, two loads each."""
    there = tmp_path / "small"
    for name in (layout.LIMITS, layout.SWEEP, layout.CHOICE):
        there.mkdir(exist_ok=True)
        shutil.copy(SAMPLE / name, there / name)
    for name in EXPERIMENTS:
        shutil.copytree(SAMPLE / name, there / name)
        for load in sorted((there / name / "loads").iterdir())[2:]:
            shutil.rmtree(load)
    return there


def edit(file: Path, **changes: Any) -> None:
    write_json(file, json.loads(file.read_text()) | changes)


def plant_in_experiment(folder: Path) -> Path:
    """Names in all of its files; it has another id then, and another folder."""
    content = json.loads((folder / layout.EXPERIMENT).read_text())
    content |= {"cluster": "nordheim-rack", "model_path": "/lustre/fs7/projects/aurelia/weights/Qwen3-8B"}
    group = next(content["deployment"][role] for role in ("ctx", "gen") if content["deployment"][role])
    group["environment"] = {
        "LAB_PROXY": "http://frost-a17:3128",
        "UCX_LOG_LEVEL": "info",
        "OWNER_NOTE": "Tuesday-Secret-77",
    }
    group["options"] = {"cache_dir": "/home/marlene/runs/r1"}
    for load in loads_of(folder.parent):
        if load.parents[1] == folder:
            plant_in_load(load)
    write_json(folder / layout.EXPERIMENT, content)
    edit(
        folder / layout.CLUSTER,
        name="nordheim-rack",
        about=LINES,
        container={
            "image": "registry.uni-nordheim.de#team/trt:1",
            "mounts": ["/home/marlene/runs/r1:/w"],
            "mount_home": False,
        },
        environment={"HF_HOME": "/home/marlene/runs/r1"},
        model_paths={"deepseek-r1": "/lustre/fs7/projects/aurelia/weights/Qwen3-8B"},
    )
    launch = folder / "launch" / "1"
    (launch / "ctx-0.log").write_text(f"{LINES}\n" + "a line that says nothing\n" * 2000 + LINES)
    (launch / "run.sh").write_text(
        f"# {USER}\nenv HF_TOKEN=hf_QpLzYtKmWxVbNcRdEfGh LAB_SITE=Tuesday-Secret-77 serve\n{LINES}\n"
    )
    (launch / "ctx.yaml").write_text(
        f'# {HOST}\nprint_to: "/home/marlene/runs/r1"\nhostname: {HOST}\nnote: |\n  ' + LINES.replace("\n", "\n  ")
    )
    (launch / "stray.txt").write_text(LINES)
    edit(launch / layout.PROVENANCE, host=HOST, slurm_job_id="88123")
    write_json(
        launch / layout.PLACEMENT,
        {
            "instances": [{"host": HOST, "name": "ctx-0", "port": 8000, "places": [{"gpus": [0], "node": SHORT}]}],
            "orchestrator": None,
        },
    )
    edit(launch / layout.OUTCOME, error=LINES, ok=False, kind="ServerDied")
    return folder.rename(folder.parent / experiments.from_json(content).folder)


def plant_in_load(load: Path) -> None:
    stored = next(s for s in Results(load.parents[2]).now().loads if s.folder == load)
    records = [
        replace(record, error=LINES, times=json.dumps({"server": HOST, "at": LINES})) for record in stored.records()
    ]
    write_records(load / layout.RECORDS, records)
    edit(load / layout.MEASUREMENT, warnings=[LINES])
    content = json.loads((load / layout.LOADRUN).read_text())
    content |= {"notes": [LINES], "remedy": f"ask {USER}", "prometheus": {f"http://{HOST}:8000/metrics": {"a": 1.0}}}
    content["telemetry"] |= {"problems": {f"{SHORT}:8000": LINES}}
    for key in (checksums.OWN, checksums.FILES):
        content.pop(key, None)
    write_json(load / layout.LOADRUN, checksums.seal(load, content))


@pytest.fixture
def dirty(small: Path) -> Path:
    for name in EXPERIMENTS:
        plant_in_experiment(small / name)
    sweep = (small / layout.SWEEP).read_text()
    (small / layout.SWEEP).write_text(f"# {LINES.splitlines()[0]}\n{sweep}\n# {HOST}\n")
    edit(small / layout.LIMITS, name=f"{USER}-sweep")
    choice = json.loads((small / layout.CHOICE).read_text())
    write_json(small / layout.CHOICE, [run | {"why": LINES} for run in choice])
    write_json(small / layout.NODES, {SHORT: [LINES]})
    (small / "controller.log").write_text(LINES)
    (small / "packs" / f"{USER}-1").mkdir(parents=True)
    write_json(small / "packs" / f"{USER}-1" / layout.IDLE, [{"idle_gpu_s": 3.0, "node": HOST}])
    return small


def test_no_planted_name_survives_in_any_file(dirty: Path, tmp_path: Path) -> None:
    output = tmp_path / "shown"
    published, damaged = publish(Results.open(dirty), output, Wanted(hide=("aurelia-batch", "Tuesday-Secret-77")))
    assert not damaged and published.loads == 6 and published.records
    for file in (path for path in output.rglob("*") if path.is_file()):
        whole = "\n".join([str(file.relative_to(output)), *(text for pair in strings_of(file) for text in pair)])
        for name in PLANTED:
            assert name.lower() not in whole.lower(), (file, name)
            assert len(name) < 7 or name.lower().encode() not in file.read_bytes().lower(), (file, name)
    kinds = {file.suffix for file in output.rglob("*") if file.is_file()}
    assert kinds == {".json", ".yaml", ".parquet", ".log", ".sh", ""}
    assert not list(output.rglob("stray.txt")) and not (output / layout.NODES).exists()


def test_the_copy_says_where_figures_come_from(dirty: Path, tmp_path: Path) -> None:
    output = tmp_path / "shown"
    publish(Results.open(dirty), output, Wanted(about=f"measured by {USER} on two GPUs", hide=("Tuesday-Secret-77",)))
    hosts = {json.loads(file.read_text())["host"] for file in output.rglob(layout.PROVENANCE)}
    nodes = {
        json.loads(file.read_text())["instances"][0]["places"][0]["node"] for file in output.rglob(layout.PLACEMENT)
    }
    assert len(hosts) == 1 and hosts == nodes  # a machine has one pseudonym, by its full and its short name
    for part in Results.open(output).now().experiments:
        assert part.experiment.model_path == "<model>" and part.experiment.cluster == "cluster-1"
        assert part.folder.cluster().slurm.account is None
        (provenance,) = part.folder.provenances([])
        assert provenance.ratematch == "0.1.0" and provenance.packages["numpy"] == "2.4.6"
        environment = part.experiment.deployment.groups[0].environment
        assert environment["UCX_LOG_LEVEL"] == "info" and environment["OWNER_NOTE"] == "<hidden-1>"
        assert part.experiment.origin == "emulated"
    told = read_published(output)
    assert told is not None and told.origins == ("emulated",) and told.about == "measured by user-1 on two GPUs"
    assert told.left_out["logs of which only both ends are there"] == 3
    log = next(output.rglob("ctx-0.log")).read_text()
    assert "bytes are left out in this published copy" in log and len(log) < 7000


def test_the_copy_is_read_as_the_folder(small: Path, tmp_path: Path) -> None:
    output = tmp_path / "shown"
    published, _ = publish(Results.open(small), output, Wanted(records_kb=30))
    assert 0 < len(published.records) < 6
    before, after = (read_inputs(Results.open(folder)) for folder in (small, output))
    for mine, theirs in zip(before.measured, after.measured, strict=True):  # of loads without their requests too
        assert mine.experiment.id == theirs.experiment.id and mine.load == theirs.load
        for name in ("measurement", "noise", "breakdown", "decoding", "computed_share"):
            assert getattr(mine, name) == getattr(theirs, name)
    assert any(row.noise is not None for row in after.measured)
    assert any(row.breakdown is not None for row in after.measured)
    assert not after.damaged and before.question == after.question
    assert not verify(Results.open(output)).complaints
    assert Results.open(output).account() == Results.open(small).account()
    copy, whole = (rm.load_results(folder) for folder in (output, small))
    assert copy.loads.equals(whole.loads)
    assert set(copy.requests["load"]) == {name.split("/")[1] for name in published.records}
    assert rm.points(copy.match()).equals(rm.points(whole.match()))


def test_details_of_other_figures_are_not_taken(small: Path, tmp_path: Path) -> None:
    output = tmp_path / "shown"
    publish(Results.open(small), output, Wanted(records_kb=0))
    noisy = [row for row in read_inputs(Results.open(output)).measured if row.noise is not None]
    assert noisy
    details = json.loads((output / layout.DETAILS).read_text())
    write_json(output / layout.DETAILS, {name: kept | {"measurement": "0" * 64} for name, kept in details.items()})
    (output / layout.DERIVED).unlink()
    assert all(row.noise is None for row in read_inputs(Results.open(output)).measured)
    (output / layout.DERIVED).unlink()
    (output / layout.DETAILS).write_text("[")
    assert any(layout.DETAILS in line for line in read_inputs(Results.open(output)).damaged)


def test_nothing_is_written_when_a_name_would_be_left(
    dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing.Cleaner, "_once", lambda self, text: text)
    done = CliRunner().invoke(main, ["export", "results", str(dirty), "--publish", "-o", str(tmp_path / "shown")])
    assert done.exit_code == 1 and "nothing was published: names would be left in" in done.output
    for name in PLANTED:
        assert name not in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_the_command_and_its_refusals(small: Path, tmp_path: Path) -> None:
    def run(*options: str) -> Any:
        return CliRunner().invoke(main, ["export", "results", str(small), "-o", str(tmp_path / "shown"), *options])

    assert "give either --format" in run().output and "give either" in run("--format", "csv", "--publish").output
    done = run("--publish", "--about", "Of a test.")
    assert done.exit_code == 0 and "6 loads (emulated)" in done.output and "requests of" in done.output
    assert "is there already" in run("--publish").output
    inside = CliRunner().invoke(main, ["export", "results", str(small), "--publish", "-o", str(small / "shown")])
    assert inside.exit_code == 1 and "itself" in inside.output
    again = tmp_path / "again"
    assert (
        CliRunner()
        .invoke(main, ["export", "results", str(tmp_path / "shown"), "--publish", "-o", str(again)])
        .exit_code
        == 0
    )
    assert not scan(again, Known())


def test_rules_of_a_sweep_stay_and_options_of_slurm_go() -> None:
    cleaner = Cleaner(Known(), {})
    text = clean_yaml(
        "gen:\n  exclude: [{mapping: DEP4, mtp: 0}]  # of marlene\nslurm: {exclude: [x17], account: ab}\n", cleaner
    )
    assert yaml.safe_load(text) == {"gen": {"exclude": [{"mapping": "DEP4", "mtp": 0}]}, "slurm": {}}
    assert cleaner.value({"exclude": ["x17"], "rules": {"exclude": [{"mtp": 0}]}}) == {
        "exclude": [],
        "rules": {"exclude": [{"mtp": 0}]},
    }


def test_a_secret_is_masked_wherever_it_is_given() -> None:
    cleaner = Cleaner(Known(), {})
    assert cleaner.value({"environment": {"HF_TOKEN": "abcd1234", "NCCL_DEBUG": "info", "TLLM_X": "1"}}) == {
        "environment": {"HF_TOKEN": "***", "NCCL_DEBUG": "info", "TLLM_X": "1"}
    }
    assert "hunter22" not in cleaner.text("login with password=hunter22 failed")
    assert "u53r" not in cleaner.text("proxy http://u53r:pw00@proxy.corp:3128 refused")


@pytest.mark.parametrize(
    "text",
    [
        "2666 tok/s/GPU at 94.1 tok/s/user, ISL/OSL 2048/256, 12.5 /s",
        "(EngineCore pid=6897) INFO 11-30 06:19:28 [core.py:1214] vllm.v1.engine.core std::runtime_error torch.cuda",
        "ctx1xTP1+block_size=128-gen1xTP1+block_size=128-mtp0 in e2e-2048-256-ctx1xTP1-gen1xTP1-mtp0-6f1d695650",
        "GET http://127.0.0.1:8000/v1/completions, http://localhost:8000/health and http://0.0.0.0:8000/metrics",
        "image nvcr.io#nvidia/tensorrt-llm/release:1.2.0 from https://github.com",
        '--max-num-seqs 128 --kv-transfer-config \'{"kv_connector": "NixlConnector"}\' 2>&1 </dev/null',
        "versions 0.24.0, 1.3.0rc14, Linux-6.18.44-x86_64-with-glibc2.39, sm_90, bf16, gb200-nvl72, h200",
        "3 of 4 requests waited; TTFT 469 ms over 33 requests; c128-n512-w32",
    ],
)
def test_what_names_nobody_stays_as_it_is(text: str) -> None:
    assert Cleaner(Known(), {}).text(text) == text


words = st.from_regex(r"[a-z]{5,9}", fullmatch=True).filter(lambda word: word not in ("local", "model"))
octets = st.integers(1, 254)
names = st.one_of(
    st.builds(
        "{}{:03d}.{}.{}".format, words, st.integers(0, 999), words, st.sampled_from(["com", "edu", "local", "de"])
    ),
    st.builds("{}.{}.{}.{}".format, st.integers(1, 126), octets, octets, octets),
    st.ip_addresses(v=6).filter(lambda a: not a.is_loopback and not a.is_unspecified).map(str),
    st.builds("{}.{}@{}.{}".format, words, words, words, st.sampled_from(["com", "org", "ch"])),
    st.builds("/{}/{}/{}".format, st.sampled_from(["home", "lustre", "scratch/fs1", "opt", "mnt/nfs"]), words, words),
    st.builds("~{}/{}".format, words, words),
    st.builds("C:\\Users\\{}\\{}".format, words, words),
    st.from_regex(r"hf_[A-Za-z0-9]{16,30}", fullmatch=True),
    st.from_regex(r"ghp_[A-Za-z0-9]{30}", fullmatch=True),
    st.uuids().map(lambda u: f"GPU-{u}"),
    st.uuids().map(str),
    st.builds("{}-node-{:03d}".format, words, st.integers(0, 999)),
    st.builds("s3://{}-{}/{}".format, words, words, words),
    st.from_regex(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{40}", fullmatch=True).filter(lambda h: not h.isdigit()),
)
around = st.sampled_from(
    ["{}", "cannot reach {}",
      "'{}' is gone", "at={} (x)", '{{"a": "{}"}}', "[{}] INFO", "a, {}; b", "x\\n{}", "<{}>", "see {}.", "-> {}:"]
)  # fmt: skip


@settings(max_examples=examples(100), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(around, names), min_size=1, max_size=3))
def test_no_name_of_any_form_survives_in_any_text(parts: list[tuple[str, str]]) -> None:
    text = " ".join(form.format(name) for form, name in parts)
    known = Known()
    collect_text(known, text)
    cleaned = Cleaner(known, {}).text(text)
    for _, name in parts:
        assert name.lower() not in cleaned.lower(), (text, cleaned)
    assert not list(_of_text("", cleaned, known)), (text, cleaned)


def leaf(form: str, name: str) -> tuple[str, str]:
    return form.format(name), name


KEYS = [
    "error",
    "why",
    "path",
    "host",
    "user",
    "notes",
    "command",
    "url",
    "environment",
    "options",
    "config",
    "label",
]
trees = st.recursive(
    st.builds(leaf, around, names),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(KEYS), below, max_size=3),
    max_leaves=6,
)


def fill(tree: Any, planted: list[str]) -> Any:
    if isinstance(tree, tuple):
        planted.append(tree[1])
        return tree[0]
    return (
        [fill(item, planted) for item in tree]
        if isinstance(tree, list)
        else {k: fill(v, planted) for k, v in tree.items()}
    )


@settings(max_examples=examples(60), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_no_name_survives_at_any_key_of_json_or_yaml(tree: Any) -> None:
    planted: list[str] = []
    content, known = {"top": fill(tree, planted)}, Known()
    collect_value(known, content)
    written = json.dumps(Cleaner(known, {}).value(content), ensure_ascii=False)
    as_yaml = clean_yaml(yaml.safe_dump(content, allow_unicode=True), Cleaner(known, {}))
    for text in (written, as_yaml):
        for name in planted:
            assert name.lower() not in text.lower() and name.lower().replace("\\", "\\\\") not in text.lower()


def test_a_log_is_cut_at_line_ends_and_says_so() -> None:
    text = "".join(f"line {number}\n" for number in range(3000))
    kept = cut_log(text, len(text))
    assert kept.startswith("line 0\n") and kept.endswith("line 2999\n")
    assert all(line.startswith(("line ", "[... some ")) for line in kept.splitlines())
    assert cut_log("short\n", 6) == "short\n"
