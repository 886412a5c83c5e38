"""YAML at the edge: read as everybody reads it, or refused with its line. Nothing keeps a reader busy for ever."""

from __future__ import annotations

import pytest

from ratematch.errors import SweepError
from ratematch.plan.located import read_located
from ratematch.plan.numbers import MOST, brief, check_number, parse_number, parse_whole
from ratematch.plan.yamltext import MOST_BYTES, MOST_DEPTH, MOST_NODES
from tests.support.sweeptext import GOOD, parse


def only_problem(text: str) -> str:
    located = read_located(text, "f.yaml")
    assert len(located.problems) == 1, located.problems
    return str(located.problems[0])


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("2026-13-45", "'2026-13-45' is a date to YAML (put it in quotes where text is meant)"),
        ("2024-01-01", "'2024-01-01' is a date to YAML"),
        ("2024-01-01T10:00:00Z", "is a date to YAML"),
        ("!!binary aGk=", "binary values are not read (write text)"),
        ("!env HOME", "the tag !env is not known here (known: !unchecked, !secret)"),
        ("!!python/object/apply:os.system [id]", "the tag !!python/object/apply:os.system is not known here"),
        ("!!set {a, b}", "the tag !!set is not known here"),
        ("!!omap [a: 1]", "the tag !!omap is not known here"),
        ("!!int x", "'x' is no whole number"),
        ("!!int [1]", "the tag !!int is not known here"),
        ("!!float y", "'y' is no number"),
        ("!!bool maybe", "'maybe' is no bool"),
        ("!!null x", "'x' is no null"),
        ("!!timestamp z", "'z' is a date to YAML"),
        ("{<<: {a: 1}}", "merge keys (<<) are not read (write the keys out)"),
        ("<<", "<< alone has a meaning of its own in YAML (put it in quotes"),
        ("=", "= alone has a meaning of its own in YAML"),
        ("{[1, 2]: 3}", "a key must be text, not a map or a list"),
        ("{~: 1}", "a key is empty"),
        ("{!unchecked a: 1}", "!unchecked goes with a value, not with a key"),
        ("9" * 5000, "must be a number up to 1e+18, not one of 5,000 digits"),
        ("0x" + "f" * 50, "must be a number up to 1e+18"),
        ("99999999999999999999", "must be a number up to 1e+18, not 99999999999999999999"),
        ("-99999999999999999999", "must be a number up to 1e+18"),
        (".inf", "must be a finite number, not .inf"),
        ("-.inf", "must be a finite number, not -.inf"),
        (".nan", "must be a finite number, not .nan"),
        ("1.0e+308", "must be a number up to 1e+18, not 1.0e+308"),
        ("1.0e-320", "must be 0, or a number from 1e-12, not 1.0e-320"),
        ("1:30:00", "'1:30:00' is a number in base 60 to YAML (write one number, or put it in quotes)"),
        ("1:30.5", "is a number in base 60 to YAML"),
        ("0777", "'0777' is an octal number to YAML (without the leading zero, or put it in quotes)"),
        ('"\\ud800"', "holds the control character U+D800"),
        ('"a\\e[31mb"', "holds the control character U+001B"),
        ('"a\\0"', "holds the control character U+0000"),
        ('"\\x9b"', "holds the control character U+009B"),
        ("&a [*a]", "*a stands inside what it names"),
        ("&a {b: {c: *a}}", "*a stands inside what it names"),
        ("*nope", "not valid YAML: found undefined alias 'nope'"),
        ('"\\U00110000"', "not valid YAML: chr() arg not in range(0x110000)"),
        ("[" * 2000, f"maps and lists are nested more than {MOST_DEPTH} deep"),
        ("{a: " * 300, f"maps and lists are nested more than {MOST_DEPTH} deep"),
        ("a\x1bb", "not valid YAML: character U+001B may not stand in YAML"),
    ],
)
def test_what_has_no_one_reading_is_refused_with_its_line(value: str, wrong: str) -> None:
    problem = only_problem(f"name: x\nabout: {value}\n")
    assert problem.startswith("f.yaml:2: ")
    assert wrong in problem
    assert "\n" not in problem and len(problem) < 250


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("1_000", 1000),
        ("0x1f", 31),
        ("0b101", 5),
        ("-3", -3),
        ("1.5", 1.5),
        ("1.5e+3", 1500.0),
        ("'2024-01-01'", "2024-01-01"),
        ("'0777'", "0777"),
        ("'='", "="),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("!!int '5'", 5),
        ("!!seq [1]", [1]),
        ("!!map {a: 1}", {"a": 1}),
        ("!unchecked 5", 5),
        ("!unchecked {a: [1]}", {"a": [1]}),
        ("{1: a, true: b, 1.50: c}", {"1": "a", "true": "b", "1.50": "c"}),
        ("[&x [1, 2], *x]", [[1, 2], [1, 2]]),
        ('"\\t\\n\\u20ac \\U0001f680"', "\t\n€ \U0001f680"),
        ("é日本", "é日本"),
    ],
)
def test_what_has_one_reading_is_read(value: str, meant: object) -> None:
    located = read_located(f"about: {value}\n", "f.yaml")
    assert not located.problems
    assert located.data["about"] == meant and type(located.data["about"]) is type(meant)


def test_every_problem_of_a_file_is_named() -> None:
    located = read_located("a: .inf\nb:\n  c: 2024-01-01\n  d: !env x\na: 1\n", "f.yaml")
    assert [problem.where for problem in located.problems] == [
        "f.yaml:1: a",
        "f.yaml:3: b.c",
        "f.yaml:4: b.d",
        "f.yaml:5: a",
    ]


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_aliases_cannot_make_a_small_file_large() -> None:
    assert read_located(bomb(3), "f.yaml").problems == []
    for levels in (6, 9, 60):
        assert only_problem(bomb(levels)).endswith(f"more than {MOST_NODES:,} values, with every alias written out")
    as_keys = "a: &a {b: 1, c: 2}\nd: {e: *a, f: *a}\n"
    assert read_located(as_keys, "f.yaml").data["d"] == {"e": {"b": 1, "c": 2}, "f": {"b": 1, "c": 2}}


def test_large_files_are_refused_before_they_are_read() -> None:
    assert only_problem("#" * (MOST_BYTES + 1)) == "f.yaml:1: the file is larger than 1000 kB"


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(SweepError) as caught:
        parse(text, *overrides)
    assert caught.value.problems
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("model: deepseek-r1", "model: !!binary aGk=", "demo.yaml:3: model: binary values are not read"),
        ("cluster: rack", "cluster: !!binary aGk=", "demo.yaml:4: cluster: binary values are not read"),
        (
            "concurrency: [1, 64]",
            "concurrency: 1, repeats: 100000000",
            "gen.loads.repeats: must be less than or equal",
        ),
        ("concurrency: [1, 64]", "req_s: [.inf]", "demo.yaml:12: gen.loads.req_s[0]: must be a finite number"),
        ("concurrency: [1, 64]", 'req_s: ["inf"]', "must be a finite number, not 'inf'"),
        ("concurrency: [1, 64]", "req_s: [1e400]", "must be a finite number"),
        ("concurrency: [1, 64]", "req_s: [1.0e+9]", "must be less than or equal to 1000000"),
        ("concurrency: [1, 64]", "req_s: [1.0e-9]", "must be greater than or equal to 0.000001"),
        ("concurrency: [1, 64]", "concurrency: 1, stagger_s: .inf", "must be a finite number"),
        ("concurrency: [1, 64]", "concurrency: 1, duration_s: 1.0e+14", "must be less than or equal to 10000000"),
        ("concurrency: [1, 64]", "concurrency: 1, requests_per_slot: .inf", "must be a finite number"),
        ("concurrency: [1, 64]", "concurrency: 100000000, requests_per_slot: 9", "one has 100,000,000 at most"),
        ("concurrency: [1, 64]", "req_s: 1000000, seconds: 1000000", "one has 100,000,000 at most"),
        ("isl: 1024", "isl: 1000000000", "workloads[0].isl: must be less than or equal to 100000000"),
        ("isl: 1024", "isl: 1024, think_s: .nan", "must be a finite number"),
        ("isl: 1024", "isl: 1024, isl_spread: 'normal:1e300,1'", "mean and deviation are tokens"),
        ("isl: 1024", "isl: 1024, isl_spread: 0.5", "must be of the form normal:MEAN,STD"),
        ("[TEP4, DEP8]", "[TP99999999999999999999]", "is no mapping"),
        ("[TEP4, DEP8]", "[TP²]", "is no mapping"),
        ("mapping: [TEP4, DEP8]", "tp: 99999999999", "must be a whole number up to 1,000,000"),
        ("mtp: [0, 1]", "mtp: [101]", "must be a whole number up to 100"),
        ("mtp: [0, 1]", "options.a: [1], options.a.b: [2]", "option a is given as a value, not as a map"),
        ("mtp: [0, 1]", "options.: [1]", "names no option"),
        ("name: demo", "name: demo\nseed: -1", "seed: must be greater than or equal to 0"),
        ("name: demo", "name: demo\nconstraints: {ttft_ms: .inf}", "must be a finite number"),
    ],
)
def test_numbers_of_a_sweep_are_finite_and_bounded(old: str, new: str, wrong: str) -> None:
    (problem,) = problems(GOOD.replace(old, new))
    assert wrong in problem and problem.startswith("demo.yaml:")


def test_the_size_of_a_sweep_is_bounded_before_it_is_expanded() -> None:
    wide = ", ".join(f"options.o{n}: [1, 2, 3, 4, 5, 6, 7, 8, 9]" for n in range(40))
    (problem, more) = problems(GOOD.replace("mtp: [0, 1]", wide))
    assert "combinations with the workloads, and a sweep holds 10,000 at most" in problem + more
    many = ", ".join(map(str, range(1, 2000)))
    (problem,) = problems(GOOD.replace("concurrency: [1, 64]", f"concurrency: [{many}], repeats: 1000"))
    assert "loads, and a sweep holds 100,000 at most" in problem


def test_what_set_gives_is_named_by_the_option() -> None:
    (problem,) = problems(GOOD, "gen.loads.repeats=0")
    assert problem.startswith("--set: gen.loads.repeats: must be greater than 0")
    (problem,) = problems(GOOD.replace("ctx:", "prefill:"), "prefill.loads.concurrency=[0]")
    assert problem.startswith("--set: ctx.loads.concurrency[0]: must be greater than 0")


@pytest.mark.parametrize(
    ("override", "wrong"),
    [
        ("ctx.²=1", "unknown key '²'"),
        ("seed=" + "9" * 5000, "cannot be read: must be a number up to 1e+18"),
        ("seed=.inf", "cannot be read: must be a finite number"),
        ("cluster==", "cannot be read: = alone"),
        ("cluster=!!binary aGk=", "cannot be read: binary values"),
        ("workloads.9.isl=1", "there is no 9 to go into"),
        ("workloads.9999999.isl=1", "there is no '9999999' to go into"),
        ("workloads.x=1", "'x' cannot be set there"),
        ("name.x=1", "'x' cannot be set there"),
        ("=1", "write it as key.path=value"),
        ("a..b=1", "write it as key.path=value"),
        ("ctx", "write it as key.path=value"),
        ("1=2", "unknown key '1'"),
    ],
)
def test_set_at_the_edge(override: str, wrong: str) -> None:
    (problem,) = problems(GOOD, override)
    assert problem.startswith(("--set ", "--set: ")) and wrong in problem and len(problem) < 400


@pytest.mark.parametrize(
    "text", ["", "x", "1,5", "1 5", "²", "١", "0x10", "nan", "inf", "-Infinity", "1e400", "1e-400", "9" * 99]
)
def test_numbers_of_options_and_tables_are_decimal_and_finite(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        parse_number(text)
    with pytest.raises(ValueError, match="number"):
        parse_whole(text)


def test_numbers_that_people_write_are_read() -> None:
    assert [parse_number(text) for text in ("1", " 2.5 ", "1e3", "-.5", "1_000", "5.")] == [
        1,
        2.5,
        1000,
        -0.5,
        1000,
        5,
    ]
    assert parse_whole("-1_000") == -1000
    assert check_number(MOST) == "" and check_number(0.0) == "" and check_number(-MOST * 1.01)


def test_values_in_messages_are_short() -> None:
    assert brief("x" * 10_000) == "'" + "x" * 75 + "...'"
    assert len(brief("\x1b" * 10_000)) <= 80
    assert brief({"a": 1}) == "a map" and brief([1]) == "a list" and brief(1.5) == "1.5"
