"""``benchmarks/compare_checkouts.py``: what it calls a difference, what it replaces, what it asks of a checkout."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.checkouts import probe
from benchmarks.checkouts.collect import Checkout, Collection, open_checkout
from benchmarks.checkouts.differences import Difference, Expected, compare_folders, compare_texts, read_expected
from benchmarks.checkouts.jobs import Step, make_jobs
from benchmarks.checkouts.normal import describe_format, normalise
from ratematch.__main__ import main

ROOT = Path(__file__).parents[1]


def lines(name: str, old: str, new: str) -> list[str]:
    return [str(each) for each in compare_texts(name, old.encode(), new.encode())[1]]


def test_json_is_compared_value_by_value() -> None:
    old = {"id": "a", "loads": [{"n": 1}, {"n": 2}], "gone": None}
    new = {"id": "b", "loads": [{"n": 1}, {"n": 2.0}, {"n": 3}], "come": True}
    assert lines("plan/x.json", json.dumps(old), json.dumps(new)) == [
        "plan/x.json: id: a -> b",
        "plan/x.json: loads[]: 2 items -> 3 items",
        "plan/x.json: loads[1].n: 2 -> 2.0",
        "plan/x.json: gone: null -> (absent)",
        "plan/x.json: come: (absent) -> true",
    ]


def test_equal_values_in_other_bytes_are_one_difference() -> None:
    (found,) = lines("x.json", '{"a": 1, "b": 2}', '{"b": 2, "a": 1}')
    assert found.startswith("x.json: bytes: ")
    assert lines("x.json", "[1]", "[1]") == []
    assert len(lines("x.sh", "a\nb\n", "a\nb")) == 1


def test_tables_are_compared_by_row_and_column() -> None:
    assert lines("x.csv", "a,b\n1,2\n3,4\n", "a,b\n1,2\n3,5\n") == ["x.csv: row 2, b: 4 -> 5"]
    assert lines("x.csv", "a,b\n1,2\n", "a,c\n1,2\n") == ["x.csv: columns: b -> c"]
    assert lines("x.csv", "a\n1\n2\n", "a\n2\n") == ["x.csv: line 2: 1 -> (absent)"]


def test_text_is_compared_by_line_and_long_lines_where_they_differ() -> None:
    assert lines("run.sh", "a\nb\n", "a\nc\n") == ["run.sh: line 2: b -> c"]
    assert lines("run.sh", "a\nb\nc\n", "a\nc\n") == ["run.sh: line 2: b -> (absent)"]
    (found,) = lines("x.yaml", "k" * 500 + "1", "k" * 500 + "2")
    assert found.endswith("k2") and len(found) < 150
    assert len(compare_texts("x.png", b"\xff1", b"\xff2")[1]) == 1


def test_folders_files_of_one_side_and_counts(tmp_path: Path) -> None:
    for side, names in (("old", ("plan/a.json", "plan/b.json")), ("new", ("plan/a.json", "cli/c.json"))):
        for name in names:
            path = tmp_path / side / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('{"x": [1, 2]}')
    found = compare_folders(tmp_path / "old", tmp_path / "new")
    assert [str(each) for each in found.differences] == [
        "cli/c.json: file: (absent) -> 13 bytes",
        "plan/b.json: file: 13 bytes -> (absent)",
    ]
    assert found.compared == {"cli": (1, 1), "plan": (2, 3)}


def test_expected_differences_are_named_with_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "expected.txt"
    file.write_text("# comment\n\nmatch/*/allocated.json: *[0].tok_s_gpu -- IFB servers fill nodes\n")
    (expected,) = read_expected(file)
    assert expected.reason == "IFB servers fill nodes"
    assert expected.covers(Difference("match/rates/allocated.json", "ifb_front[0].tok_s_gpu", "1", "2"))
    assert not expected.covers(Difference("match/rates/allocated.json", "ifb_front[1].tok_s_gpu", "1", "2"))
    assert not expected.covers(Difference("match/rates/plain.json", "ifb_front[0].tok_s_gpu", "1", "2"))
    assert Expected("*", "all").covers(Difference("a", "b\nc", "", ""))
    file.write_text("match/*\n")
    with pytest.raises(ValueError, match=r"expected\.txt:1: write PLACE -- REASON"):
        read_expected(file)


def test_what_differs_from_run_to_run_is_replaced() -> None:
    names = {"/tmp/x/site": "<site>", "/tmp/x": "<top>"}
    assert normalise("a/run.sh", b"cd /tmp/x/site; ls /tmp/x/bin\n", names) == [
        ("a/run.sh", b"cd <site>; ls <top>/bin\n")
    ]
    run = b'{\n "load": {\n  "seconds": 0.0\n },\n "wall_s": 0.5,\n "wall_start_ns": 17\n}'
    assert normalise("x/loadrun.json", run, {}) == [
        (
            "x/loadrun.json",
            b'{\n "load": {\n  "seconds": 0.0\n },\n "wall_s": "<clock>",\n "wall_start_ns": "<clock>"\n}',
        )
    ]
    assert normalise("x/progress.json", b'{"time": 3, "done": 1}', {}) == [
        ("x/progress.json", b'[\n "done",\n "time"\n]\n')
    ]
    page = '<table><tr><td>1</td><td> b <i>c</i></td></tr></table><script type="application/json">{"x": 2}</script>'
    data, tables, bare = normalise("report.html", page.encode(), {})
    assert json.loads(data[1]) == [{"x": 2}] and json.loads(tables[1]) == [[["1", "bc"]]]
    assert bare[0] == "pages/report.html" and b'"x"' not in bare[1]


def test_parquet_files_become_columns_rows_and_digests(tmp_path: Path) -> None:
    def describe(values: list[int]) -> dict[str, Any]:
        sink = io.BytesIO()
        pq.write_table(pa.table({"seq": [1, 2], "osl": values}), sink)
        ((name, content),) = normalise("r.parquet", sink.getvalue(), {})
        assert name == "r.parquet.json"
        described: dict[str, Any] = json.loads(content)
        return described

    one, other = describe([3, 4]), describe([3, 5])
    assert one["columns"] == {"seq": "int64", "osl": "int64"} and one["rows"] == 2
    assert one["values"]["seq"] == other["values"]["seq"] and one["values"]["osl"] != other["values"]["osl"]
    file = tmp_path / "x.json"
    file.write_text('{"a": [{"b": 1}, {"b": 2}, null]}')
    assert json.loads(describe_format(file)) == {"a": [{"b": "int"}, "NoneType"]}


def steps() -> list[Step]:
    verbs = [step for job in make_jobs(ROOT) for step in job.steps if step.argv[:2] == ("-m", "ratematch")]
    assert len(verbs) > 40
    return verbs


@pytest.mark.parametrize("step", steps(), ids=lambda step: " ".join(step.argv[2:])[:60])
def test_every_question_is_one_that_the_command_line_takes(step: Step) -> None:
    command: click.Command = main
    context, words = click.Context(main), list(step.argv[2:])
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
        context = click.Context(command, parent=context)
    command.make_context(command.name, words, parent=context.parent)


def test_names_and_verbs_are_told_apart_from_words(tmp_path: Path) -> None:
    probe.collect_names(tmp_path)
    names = json.loads((tmp_path / "names.json").read_text())
    assert names["match"]["kind"] == "callable" and names["load_results"]["call"] == "(path)"
    assert "importlib" not in names
    probe.collect_cli(tmp_path)
    verbs = json.loads((tmp_path / "verbs.json").read_text())
    option = verbs["commands"]["match"]["params"]["--objective"]
    assert option["default"] == "per_used_gpu" and "help" not in option
    words = json.loads((tmp_path / "help.json").read_text())
    assert words["ratematch match --ttft-ms"]["help"]


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkout of ratematch"):
        open_checkout(tmp_path)


BROKEN = """\
import hashlib

from ratematch.cli import main

honest = hashlib.sha256
hashlib.sha256 = lambda data=b"": honest(data + b" ")
next(each for each in main.commands["match"].params if "--ttft-ms" in each.opts).opts = ["--ttft-limit-ms"]

if __name__ == "__main__":
    main()
"""
"""Other ids and seeds, and an option that has another name."""


@pytest.mark.slow
def test_changed_ids_and_a_renamed_option_are_reported(tmp_path: Path) -> None:
    # Compiled modules come with it, as their files keep their times; not those that another process is writing now.
    shutil.copytree(ROOT / "ratematch", tmp_path / "broken" / "ratematch", ignore=shutil.ignore_patterns("*.pyc.*"))
    (tmp_path / "broken" / "ratematch" / "__main__.py").write_text(BROKEN)
    inputs = Checkout(ROOT, None)
    for name, code in (("old", inputs), ("new", open_checkout(tmp_path / "broken"))):
        collection = Collection(code, inputs, Path(sys.executable))
        try:
            collection.check()
            for job in make_jobs(collection.site):
                if job.name in ("plan kinds", "cli"):
                    collection.run(job)
            collection.finish(tmp_path / name)
        finally:
            collection.close()
    found = [each.place for each in compare_folders(tmp_path / "old", tmp_path / "new").differences]
    assert "cli/verbs.json: commands.match.params.--ttft-limit-ms" in found
    assert "cli/verbs.json: commands.match.params.--ttft-ms" in found
    assert "ids/kinds.json: [0]" in found and "plan/kinds.json: experiments[0].id" in found
    assert not [place for place in found if place.startswith("exit/")]
