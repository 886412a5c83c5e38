"""How ``--help`` looks: verbs in the order in which they are used, and options without bounds that nobody meets."""

from __future__ import annotations

import re
from collections.abc import Mapping

import click

SECTIONS = {
    "A new site": ("init", "doctor", "model"),
    "Before anything runs": ("plan", "size", "render"),
    "Run": ("sweep", "status", "logs", "cancel", "verify", "run"),
    "Read results": ("pareto", "report", "compare", "match", "calibrate"),
    "One tool alone": ("load", "emulate", "diagnose"),
    "Files of others, and for others": ("import", "export", "schema"),
}
"""Verbs as a person comes to need them; one that is in no section stands under its own heading at the end."""

HUGE = 1e5
"""Upper bounds from here on only catch slips of the keyboard: the message says them, the help need not."""

_RANGE = re.compile(r"(?:; |(?<=\[))(?P<low>[-+.e\d]+)<=?x<=?(?P<high>[-+.e\d]+)(?:(?=\])|; )")


def shorten_help(metavar: str, text: str) -> tuple[str, str]:
    """One option's line without bounds at or above :data:`HUGE`; numbers are called as everywhere else."""
    match = _RANGE.search(text)
    if match is not None and float(match["high"]) >= HUGE:
        text = text[: match.start()] + text[match.end() :]
    text = text.replace("  []", "").removesuffix("[]").rstrip()
    return metavar.replace("INTEGER RANGE", "INTEGER").replace("FLOAT RANGE", "NUMBER"), text


class Verb(click.Command):
    """A verb whose options are listed by :func:`shorten_help`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options."""
        records = (param.get_help_record(ctx) for param in self.get_params(ctx) if isinstance(param, click.Option))
        with formatter.section("Options"):
            formatter.write_dl([shorten_help(*record) for record in records if record is not None])


class Family(click.Group):
    """Verbs that belong together under one name, such as ``import``."""

    command_class = Verb

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each verb with its whole first sentence."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, first_sentence(command)) for name, command in sorted(self.commands.items())])


def first_sentence(command: click.Command) -> str:
    """What a verb does, whole: a sentence that ends in dots says less than one on two lines."""
    text = " ".join((command.help or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\.) ", text, maxsplit=1)[0]


def write_sections(commands: Mapping[str, click.Command], formatter: click.HelpFormatter) -> None:
    """Every verb under the heading of its section."""
    placed = {name for names in SECTIONS.values() for name in names}
    rest = tuple(sorted(set(commands) - placed))
    width = max(map(len, commands), default=0)
    for heading, names in (SECTIONS | ({"More": rest} if rest else {})).items():
        with formatter.section(heading):
            formatter.write_dl(
                [(name.ljust(width), first_sentence(commands[name])) for name in names if name in commands]
            )
