"""The command itself: errors become one line and an exit code; results become JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import click
from rich.console import Console

from ratematch.errors import RatematchError
from ratematch.version import __version__


class _WrongCall(click.UsageError):
    """A wrong option or argument; click's own exit code 2 would read as "some experiments failed"."""

    exit_code = 1


class _Verbs(click.Group):
    """Turns ratematch's errors into one line and an exit code; ``--debug`` shows the traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _WrongCall(error.format_message(), error.ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RatematchError as error:
            if ctx.params.get("debug"):
                raise
            for line in str(error).splitlines():
                click.echo(f"ratematch: {line}" if not line.startswith("    ") else line, err=True)
            ctx.exit(error.exit_code)
        except click.UsageError as error:
            raise _WrongCall(error.format_message(), error.ctx) from error
        except (click.exceptions.Exit, click.ClickException):
            raise
        except KeyboardInterrupt:
            click.echo("ratematch: stopped; run the same command again to go on where it stopped", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            # The reader (`| head`) has gone; writing the rest to nowhere keeps Python from complaining at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"ratematch: unexpected {type(error).__name__}: {error} (--debug shows where)", err=True)
            ctx.exit(1)


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
        ratematch pareto results/quickstart
    """
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, stream=sys.stderr)


def print_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=1, allow_nan=False))


def stderr_console() -> Console:
    return Console(stderr=True)
