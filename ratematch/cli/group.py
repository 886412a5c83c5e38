"""The command itself: errors become one line and an exit code; results become JSON."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Any

import click
from rich.console import Console

from ratematch.cli.helppage import Family, Verb, write_sections
from ratematch.errors import NO_ROOM, RatematchError
from ratematch.plan.numbers import shorten
from ratematch.show.terminal import Terminal, visible
from ratematch.store.uncollected import end_uncollected
from ratematch.version import __version__

MOST_LINE = 2000
"""Characters of a line that is said of an error."""


class _WrongCall(click.UsageError):
    """A wrong option or argument; click's own exit code 2 would read as "some experiments failed"."""

    exit_code = 1

    def __init__(self, message: str, ctx: click.Context | None = None):
        super().__init__(_cut(visible(message)), ctx)


class _Verbs(click.Group):
    """Turns ratematch's errors into one line and an exit code; ``--debug`` shows the traceback."""

    command_class = Verb
    group_class = Family

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs, in the order in which they are used."""
        write_sections(self.commands, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _WrongCall(error.format_message(), error.ctx) from error
        except OSError as error:  # help that is printed to a full disk
            if error.errno not in NO_ROOM:
                raise
            _echo_no_room(error)
            ctx.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        end_uncollected()
        try:
            return super().invoke(ctx)
        except RatematchError as error:
            if ctx.params.get("debug"):
                raise
            for line in map(_cut, (str(error) or type(error).__name__).split("\n")):
                echo(f"ratematch: {line}" if not line.startswith("    ") else line, err=True)
            ctx.exit(error.exit_code)
        except click.UsageError as error:
            raise _WrongCall(error.format_message(), error.ctx) from error
        except (click.exceptions.Exit, click.ClickException):
            raise
        except KeyboardInterrupt:
            echo("ratematch: stopped; run the same command again to go on where it stopped", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            # The reader (`| head`) has gone; writing the rest to nowhere keeps Python from complaining at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except OSError as error:
            if ctx.params.get("debug"):
                raise
            if error.filename is None and error.errno in NO_ROOM:
                _echo_no_room(error)
            elif error.filename is None:
                _echo_unexpected(error)
            else:  # what the machine says of a file is no fault of the program, and needs no trace
                echo(_cut(f"ratematch: {shorten(os.fsdecode(error.filename))}: {error.strerror}"), err=True)
            ctx.exit(1)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            _echo_unexpected(error)
            ctx.exit(1)


def _cut(line: str) -> str:
    """A line of a message, short enough to be read: it may hold names from a file or from the command line."""
    return line if len(line) <= MOST_LINE else f"{line[: MOST_LINE - 3]}..."


def _echo_no_room(error: OSError) -> None:
    """Of standard output, which has no name; files have theirs."""
    echo(f"ratematch: what is printed cannot be written: {error.strerror}", err=True)


def _echo_unexpected(error: Exception) -> None:
    what = " ".join(str(error).split())[:300]
    echo(f"ratematch: unexpected {type(error).__name__}: {what} (--debug shows where)", err=True)


class _Visible(logging.Formatter):
    """Log lines too may hold what came from outside."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "--version", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug logs.")
def main(debug: bool) -> None:
    """Benchmark and rate-match disaggregated LLM serving.

    Measure context and generation servers apart, solve the ctx:gen ratio, run the promising deployments end to end,
    and draw both Pareto fronts against in-flight batching (IFB).

    \b
    Start here (no GPU needed):
        ratematch sweep sweeps/quickstart.yaml
        ratematch report results/quickstart
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character gets its number
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Visible(logging.BASIC_FORMAT))
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[handler])


def echo(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Prints ``text`` with nothing in it that a terminal would obey."""
    click.echo(visible(str(text)), err=err, nl=nl)


def print_json(content: Any) -> None:
    """One object on stdout, written as it is encoded: it may be larger than memory should hold twice."""
    from ratematch.show.streamed import encode

    waiting: list[str] = []
    for part in encode(content):
        waiting.append(part)
        if len(waiting) > 10_000 or len(part) > 100_000:
            click.echo("".join(waiting), nl=False)
            waiting.clear()
    click.echo("".join(waiting))


def stdout_console() -> Console:
    """What results are printed on."""
    return Terminal()


def stderr_console() -> Console:
    """What goes beside the results."""
    return Terminal(stderr=True)
