"""Every option that a message, a help text or a page names is one that exists, and exists where it is named for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

import ratematch
from ratematch.cli import main

ROOT = Path(ratematch.__file__).parent
PAGES = [page for place in (".", "docs", "sweeps", "slurm", "results") for page in (ROOT.parent / place).glob("*.md")]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*")

OTHER_PROGRAMS = {
    "srun, sbatch, squeue": "--container-image --container-mounts --cpu-bind --distribution --export "
    "--job-name --kill-on-bad-exit --mem --mem-per-cpu --mem-per-gpu --mpi --open-mode --segment --test-only",
    "curl": "--data --fail --header --max-time --noproxy --silent --write-out",
    "dynamo.trtllm, dynamo.vllm": "--override-engine-args --publish-metrics",
    "pip": "--no-deps",
    "tail": "--pid",
    "vllm serve": "--kv-transfer-config",
    "trtllm-serve": "--server",
    "mpirun, pip": "--allow-run-as-root --oversubscribe --no-deps",
}
"""Options in messages that are not ratematch's; a new one belongs here only when it is really another program's."""

ROOMS = {
    "exchange/results": ("import results", "export results"),
    "exchange/recipes": ("import recipe", "import cluster"),
}
"""Folders that serve these verbs alone: what their messages name must be an option of one of them."""


def commands(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield before + name, command
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")


VERBS = dict(commands(main))
HAND_ON = ("emulate",)
"""Verbs that take the options of the program they stand for."""


def options_of(command: click.Command) -> set[str]:
    known = {"--help", "--version", "--debug"}
    for option in command.params:
        if isinstance(option, click.Option):
            known |= {*option.opts, *option.secondary_opts}
    return known


@cache
def messages(path: Path) -> list[tuple[int, str]]:
    """Text in a module that is no docstring, with its line: what it may print."""
    return list(_texts(path))


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text("utf-8"))
    described = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, described) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        # Single words are arguments that are handed to programs.
        if not isinstance(node, ast.Constant) or id(node) in docstrings:
            continue
        if isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


def test_every_option_in_a_message_exists() -> None:
    known = set().union(*map(options_of, VERBS.values()), *(text.split() for text in OTHER_PROGRAMS.values()))
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {option}"
        for path in sorted(ROOT.rglob("*.py"))
        for line, text in messages(path)
        for option in OPTION.findall(text)
        if option not in known
    ]
    assert not wrong


@pytest.mark.parametrize("room", ROOMS)
def test_what_the_messages_of_a_verb_name_is_an_option_of_that_verb(room: str) -> None:
    known = set().union(*(options_of(VERBS[verb]) for verb in ROOMS[room]))
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {option}"
        for path in sorted((ROOT / room).glob("*.py"))
        for line, text in messages(path)
        for option in OPTION.findall(text)
        if option not in known
    ]
    assert not wrong


def written_commands(text: str) -> Iterator[tuple[str, str]]:
    """(verb, rest of the line) of every ``ratematch VERB ...``; lines that end in \\ go on."""
    for line in text.replace("\\\\\n", " ").replace("\\\n", " ").splitlines():
        for call in re.finditer(r"(?<![\w/.-])ratematch ((?:[a-z-]+ ?)+)([^`&|#;]*)", line):
            words = call[1].split()
            for length in (2, 1):
                if " ".join(words[:length]) in VERBS:
                    yield " ".join(words[:length]), " ".join(words[length:]) + " " + call[2]
                    break


def test_every_command_that_help_and_pages_show_has_its_options() -> None:
    texts = {f"help of {verb}": command.help or "" for verb, command in VERBS.items()}
    texts |= {path.name: path.read_text("utf-8") for path in PAGES}
    texts |= {
        f"{path.relative_to(ROOT)}:{line}": text for path in ROOT.rglob("*.py") for line, text in messages(path)
    }
    shown = [(where, verb, rest) for where, text in texts.items() for verb, rest in written_commands(text)]
    wrong = [
        f"{where}: ratematch {verb} {option}"
        for where, verb, rest in shown
        for option in OPTION.findall(rest)
        if verb not in HAND_ON and option not in options_of(VERBS[verb])
    ]
    assert not wrong and len(shown) > 50
