"""The live view of a running sweep, and its end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ratematch.plan.cluster import Cluster
from ratematch.show.terminal import command_line
from ratematch.show.views.status import describe_load, describe_progress
from ratematch.store.progress import Measuring

if TYPE_CHECKING:  # `show` draws what `campaign` hands it and starts nothing
    from ratematch.campaign.state import Campaign

MARKS = {
    "pending": "[dim]·[/]",
    "queued": "[yellow]~[/]",
    "running": "[cyan]>[/]",
    "done": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "skipped": "[yellow]-[/]",
}
LINE_S = 10.0
SHOW_S = 0.5
SHOWN = 16


def describe_default_executor(cluster: Cluster, chosen: str) -> str:
    """The executor that follows from the profile, for a person who named none."""
    where = {
        "slurm": "servers run in Slurm jobs",
        "allocation": "servers run on the nodes of this job",
        "local": "servers run on this machine",
    }
    return f"executor {chosen}: {where[chosen]}, by cluster profile {cluster.name} (--executor overrides it)"


class SweepView:
    """On a terminal: a bar, what is spent, and the experiments around the running ones. Elsewhere: a line now and
    then.

    ``opening``: a line to print first, once nothing was refused.
    """

    def __init__(self, console: Console, opening: str | None = None):
        self._console = console
        self._opening = opening
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._printed: dict[str, str] = {}
        self._last_line = 0.0
        self._shown = 0.0
        self._states: list[str] = []
        self._expected = False

    def _say_what_is_expected(self, campaign: Campaign) -> None:
        """Once: that the plan is larger than the budget, before any of it is spent."""
        expected, budget = campaign.expected, campaign.sweep.budget.gpu_hours
        if self._expected or expected is None or budget is None:
            return
        self._expected = True
        if expected.gpu_hours > budget:
            self._say(
                f"the plan is estimated at {expected.gpu_hours:.2f} GPU-hours and the budget is {budget:g}: "
                "it stops in order when they are spent, and what is measured stays",
                style="yellow",
            )

    def __enter__(self) -> SweepView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, campaign: Campaign) -> None:
        """Show where the campaign is."""
        if self._opening is not None:
            self._say(self._opening)
            self._opening = None
        self._say_what_is_expected(campaign)
        states = [item.state for item in campaign.items]
        # Progress is read from a shared file system, which has more to do than to feed a view.
        if states == self._states and time.monotonic() - self._shown < SHOW_S:
            return
        self._states, self._shown = states, time.monotonic()
        left = [item.loads_left if item.state != "done" else 0 for item in campaign.items]
        loads = sum(len(item.experiment.loads) for item in campaign.items)
        if self._console.is_terminal:
            self._live.update(
                Group(*head_lines(campaign, loads - sum(left), loads), experiment_table(campaign, left))
            )
        else:
            self._say_changes(campaign, loads - sum(left), loads)

    def _say_changes(self, campaign: Campaign, done: int, loads: int) -> None:
        for item in campaign.items:
            why = item.error.splitlines()[0] if item.error else item.waits_for
            line = item.state + (f": {why}" if why else "")
            if self._printed.get(item.folder.path.name) != line and (item.state != "pending" or why):
                self._printed[item.folder.path.name] = line
                self._say(f"{item.experiment.label}: {line}")
        if time.monotonic() - self._last_line <= LINE_S:
            return
        running = [item for item in campaign.items if item.state == "running" and not item.waits_for]
        for item in running:
            self._last_line = time.monotonic()
            self._say(f"  {done}/{loads} loads; {item.experiment.label}: {describe_progress(item.folder.progress())}")

    def print_outcome(self, campaign: Campaign) -> None:
        """What became of the sweep, and what to type next."""
        done = sum(item.state == "done" for item in campaign.items)
        self._say(f"{campaign.sweep.name}: {done} of {len(campaign.items)} experiments done")
        for item in campaign.failed:
            self._say(Text.assemble((item.state, "red"), f" {item.experiment.label}"))
            self._say(f"    {item.error or ''}")
        if campaign.num_invalid:
            line = f"{campaign.num_invalid} of {campaign.num_measured} loads are not valid"
            self._say(f"{line}; `ratematch pareto` says why for each", style="yellow")
        for note in campaign.notes:
            self._say(note, style="yellow")
        if campaign.failed:
            self._say("run the same command again to measure what is missing")
        if campaign.num_measured:
            self._say(f"next: {command_line('ratematch', 'pareto', campaign.results.path)}")

    def _say(self, text: str | Text, style: str = "") -> None:
        """Prints a line as it stands: text from files and servers is never read as markup."""
        self._console.print(Text(text, style) if isinstance(text, str) else text, soft_wrap=True)


def head_lines(campaign: Campaign, done: int, loads: int) -> Iterator[RenderableType]:
    """What the campaign does and how far it is; what it has spent of what it may."""
    elapsed = time.monotonic() - campaign.began
    here = done - campaign.measured_before
    rest = f", about {_clock(elapsed / here * (loads - done))} left" if here > 1 and loads > done else ""
    head = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(loads, 1), completed=done, width=40)
    head.add_row(
        Text(f"{campaign.sweep.name}: {campaign.stage}", "bold"),
        bar,
        f"{done}/{loads} loads",
        _clock(elapsed) + rest,
    )
    yield head
    spent, budget, expected = campaign.spent, campaign.sweep.budget.gpu_hours, campaign.expected
    of = f" of {budget:g}, {max(0.0, budget - spent.total):.2f} left" if budget is not None else ""
    plan = f"; the plan was estimated at {expected.gpu_hours:.2f}" if expected else ""
    states = [item.state for item in campaign.items]
    waiting = sum(item.state == "running" and item.waits_for is not None for item in campaign.items)
    counts = {"running": states.count("running") - waiting, "in the queue": waiting, "to do": states.count("pending")}
    counts |= {state: states.count(state) for state in ("done", "failed", "skipped")}
    line = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    yield Text(f"{line}; GPU-hours {spent.total:.2f}{of}{plan}", "dim")


def experiment_table(campaign: Campaign, left: Sequence[int]) -> Table:
    """The experiments around those under way; ``left``: loads that each has still to do."""
    rows = Table(box=None, pad_edge=False, header_style="dim")
    rows.add_column("")
    rows.add_column("experiment", no_wrap=True)
    for heading in ("loads", "tok/s", "TTFT ms", "in flight"):
        rows.add_column(heading, justify="right", no_wrap=True)
    rows.add_column("", ratio=1, overflow="ellipsis", no_wrap=True)
    items = campaign.items
    current = next((index for index, item in enumerate(items) if item.state in ("running", "pending")), len(items))
    first = max(0, min(current - SHOWN // 2, len(items) - SHOWN))
    for item, missing in list(zip(items, left, strict=True))[first : first + SHOWN]:
        progress = item.folder.progress() if item.state == "running" and not item.waits_for else None
        measuring = progress if isinstance(progress, Measuring) else None
        doing = item.error or item.waits_for or ""
        if item.state == "running" and not item.waits_for:
            doing = describe_progress(progress) if measuring is None else describe_load(measuring)
        loads = len(item.experiment.loads)
        figures = ("", "", "")
        if measuring:
            ttft = "" if measuring.ttft_ms is None else f"{measuring.ttft_ms:.0f}"
            figures = (f"{measuring.tok_s:.0f}", ttft, str(measuring.in_flight))
        mark = MARKS["queued" if item.state == "running" and item.waits_for else item.state]
        label, detail = Text(item.experiment.label), Text(doing.splitlines()[0] if doing else "", "dim")
        rows.add_row(mark, label, f"{loads - missing}/{loads}", *figures, detail)
    return rows


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def outcome_to_json(campaign: Campaign) -> dict[str, Any]:
    """State and error of every experiment of the campaign."""
    return {
        "sweep": campaign.sweep.name,
        "results": str(campaign.results.path),
        "emulated": campaign.sweep.cluster.emulated or campaign.sweep.simulated,
        "simulated": campaign.sweep.simulated,
        "failed": len(campaign.failed),
        "loads": campaign.num_measured,
        "loads_not_valid": campaign.num_invalid,
        "notes": list(campaign.notes),
        "experiments": [
            {
                "experiment": item.experiment.label,
                "stage": item.experiment.stage,
                "state": item.state,
                "error": item.error,
            }
            for item in campaign.items
        ],
    }
