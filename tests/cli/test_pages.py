"""Commands of the pages: every one can be typed as it stands, and what needs no site of its own is run."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import ratematch
from ratematch.cli import main

ROOT = Path(ratematch.__file__).parents[1]
PLACES = (".", "docs", "sweeps", "slurm", "results", "benchmarks", "ratematch/emulator", "ratematch/engines/*")
PAGES = sorted(page for place in PLACES for page in ROOT.glob(f"{place}/*.md"))
OPERATORS = re.compile(r"[|&;<>()]+")


def blocks(page: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Line, language and lines of every fenced block."""
    began, language, lines = 0, "", list[str]()
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        fence = re.match(r"\s*```(\w*)", line)
        if fence and began:
            yield began, language, lines
            began = 0
        elif fence:
            began, language, lines = number, fence[1], []
        else:
            lines.append(line)


def commands(text: str) -> list[list[str]]:
    """The calls of ratematch in a line of shell, as words after its name; a comment is none of them."""
    # "$" and "=" begin no operator; what is quoted is one word.
    reader = shlex.shlex(text, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    calls: list[list[str]] = []
    words: list[str] | None = None
    for word in reader:
        if OPERATORS.fullmatch(word):
            words = None
        elif words is not None:
            words.append(word)
        elif word == "ratematch":
            words = []
            calls.append(words)
        elif "=" not in word:  # a variable before a command
            words = list[str]()  # another program's
    return calls


def written() -> Iterator[tuple[str, list[str]]]:
    """(where, words) of every command in a block of a page, and in the help of a verb."""
    for page in PAGES:
        for began, _, lines in blocks(page):
            text = "\n".join(lines).replace("\\\n", " ")
            for line in text.splitlines():
                if re.match(r"\s*(\$ )?ratematch ", line):
                    yield from (
                        (f"{page.relative_to(ROOT)}:{began}", call) for call in commands(line.replace("$ ", ""))
                    )
    for verb, command in verbs(main):
        for line in (command.help or "").replace("\\\n", " ").splitlines():
            if line.strip().startswith("ratematch "):
                yield from ((f"help of {verb}", call) for call in commands(line.strip()))


def verbs(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield before + name, command
        if isinstance(command, click.Group):
            yield from verbs(command, f"{before}{name} ")


def parse(words: list[str]) -> None:
    """Reads ``words`` as the command line does, without looking whether the files they name are there.

    Raises:
        click.UsageError: there is no such verb or option, a value of another type, or too few or many arguments.
    """
    command: click.Command = main
    context = click.Context(main, info_name="ratematch")
    while isinstance(command, click.Group):
        if not words or words[0] not in command.commands:
            if words == ["--version"]:
                return
            raise click.UsageError(f"there is no verb {' '.join(words)}")
        command, words = command.commands[words[0]], words[1:]
        context = click.Context(command, context, info_name=command.name, **command.context_settings)
    values, left, _ = command.make_parser(context).parse_args(list(words))
    if left and not context.allow_extra_args:
        raise click.UsageError(f"too many arguments: {' '.join(left)}")
    for parameter in command.params:
        value = values.get(parameter.name or "")
        given = isinstance(value, str | bool | int | list | tuple) and value not in ((), None)
        if parameter.required and not given:
            raise click.UsageError(f"{parameter.name} is missing")
        if given and not isinstance(parameter.type, click.Path | click.File):
            parameter.type_cast_value(context, value)


def test_every_command_of_the_pages_can_be_typed() -> None:
    wrong = []
    shown = list(written())
    for where, words in shown:
        try:
            parse(words)
        except click.UsageError as error:
            wrong.append(f"{where}: ratematch {shlex.join(words)}: {error.format_message()}")
    assert not wrong
    assert len(shown) > 90


@pytest.mark.parametrize(
    "line",
    [
        "ratematch swep s.yaml",
        "ratematch",
        "ratematch import",
        "ratematch sweep s.yaml --max-gpu-hour 5",
        "ratematch sweep s.yaml --max-gpu-hours many",
        "ratematch sweep s.yaml t.yaml",
        "ratematch pareto",
        "ratematch compare a",
        "ratematch sweep s.yaml --executor cloud",
        "ratematch plan s.yaml    what it is for",
        "A=b ratematch schema sweep | ratematch swep",
    ],
)
def test_what_cannot_be_typed_is_seen(line: str) -> None:
    with pytest.raises(click.UsageError):
        for words in commands(line):
            parse(words)


def test_a_line_of_shell_is_taken_apart() -> None:
    line = (
        "A=1 ratematch export deployment r --at '50 tok/s/user' > o && echo ratematch x; ratematch schema # ratematch"
    )
    assert commands(line) == [["export", "deployment", "r", "--at", "50 tok/s/user"], ["schema"]]


def type_in(words: list[str]) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, f"ratematch {shlex.join(words)}\n{done.output}"
    return done.output


def console(page: str) -> list[list[str]]:
    """What the blocks of a page's console type."""
    lines = [line for _, language, lines in blocks(ROOT / page) if language == "console" for line in lines]
    return [call for line in lines if line.startswith("$ ") for call in commands(line[2:])]


def test_what_is_typed_into_consoles_is_run_by_a_test() -> None:
    pages = {str(page.relative_to(ROOT)) for page in PAGES if console(str(page.relative_to(ROOT)))}
    # tests/slurm/test_first_hour.py, tests/match/test_docs.py, and below.
    assert pages == {"docs/first-front.md", "docs/rate-matching.md", "docs/schemas.md"}


def test_the_page_on_schemas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in console("docs/schemas.md"):
        type_in(words)
    named = re.findall(r'[ "/](schemas/\w+\.schema\.json)', (ROOT / "docs" / "schemas.md").read_text("utf-8"))
    assert named and all((tmp_path / name).is_file() for name in named)


def test_the_profile_of_the_page_on_ones_own_cluster_can_be_planned_and_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs" / "tutorial-cluster.md"
    (profile,) = ["\n".join(lines) for _, language, lines in blocks(page) if language == "yaml"]
    (tmp_path / "slurm" / "clusters").mkdir(parents=True)
    (tmp_path / "slurm" / "clusters" / "mine.yaml").write_text(profile)
    monkeypatch.chdir(tmp_path)
    every = [call for _, _, lines in blocks(page) for line in lines for call in commands(line.replace("<", ""))]
    plan, *_ = [call for call in every if call[0] == "plan"]
    (render,) = [call for call in every if call[0] == "render"]
    assert "gen-8192-256-gen1xDEP8-mtp3" in type_in([*plan, "--json"])
    type_in(render)
    assert list(Path("out").rglob("run.sh"))


READERS = ("status", "verify", "export deployment")
"""Verbs that read a results folder and take no time; the others have tests of their own."""


def test_commands_that_read_results_are_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = {
        tuple(words) for where, words in written() if " ".join(words).startswith(READERS) and "help" not in where
    }
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    for words in typed:
        (folder,) = [word for word in words if word.startswith("results/")]
        with contextlib.suppress(FileExistsError):
            Path(folder).symlink_to(ROOT / "results" / "sample")
    # The same folder under several names: once is enough.
    once = {(words[0], *(word for word in words if not word.startswith("results/"))): words for words in typed}
    assert {words[0] for words in once} == {"status", "verify", "export"}
    for words in once.values():
        assert type_in(list(words))
