"""``search: adaptive``: the campaign's ctx and gen jobs, decided one by one from what is measured.

A job begins with one load. When that is measured its servers are up and idle, and the next load of theirs is decided
on, or that they may stop (:mod:`ratematch.run.followup`).

Every decision, with what it was expected to bring and what was passed over for which reason, is written to
``search.json`` before its job is sent. A sweep that is started again first finishes the decisions that stand there,
then decides on: the same results lead to the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ratematch.campaign.decisions import (
    LoadDecision,
    LongerRun,
    ReservedHours,
    SearchRecord,
    SkippedServer,
    WaitingRun,
    read_search,
    write_search,
)
from ratematch.campaign.endtoend import EndToEnd
from ratematch.match.choose import Choice as EndToEndChoice
from ratematch.measure.measurement import Measurement
from ratematch.plan.budget import minutes_of
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.sweep import Sweep
from ratematch.plan.workload import Workload
from ratematch.run import followup
from ratematch.search.candidates import Candidate, Known, Rate, Space
from ratematch.search.decide import Choice
from ratematch.search.price import Promised, settle
from ratematch.search.repeats import TARGET_CI, Longer, find_longer, pool
from ratematch.search.space import lengthen, make_space, read_known, shorten
from ratematch.search.view import View
from ratematch.search.workloads import decide_among, go_on_among, share, teach
from ratematch.simulate.forecasts import forecast_experiment
from ratematch.simulate.predict import Forecast
from ratematch.store.folder import ExperimentFolder, Results


@dataclass
class Search:
    """What the adaptive search of one sweep knows. ``asked``: all ctx and gen experiments, with whole ladders.

    ``up``: experiments whose servers may be asked to go on. ``runs``: end-to-end runs that compete for the same
    hours; ``None``: the sweep has none, or no budget to compete for.
    """

    sweep: Sweep
    results: Results
    asked: Sequence[Experiment]
    runs: EndToEnd | None = None
    decisions: list[LoadDecision] = field(default_factory=list)
    up: list[str] = field(default_factory=list)
    ended: str | None = None

    def __post_init__(self) -> None:
        self._experiments = {experiment.id: experiment for experiment in self.asked}
        self._forecasts: dict[str, dict[Load, Forecast]] = {
            experiment.id: forecast_experiment(experiment, self.sweep.cluster) for experiment in self.asked
        }
        self._spaces: dict[str, Space] = {
            workload.label: make_space(self.sweep, workload, self.asked, self._forecasts)
            for workload in self.sweep.workloads
        }
        before = read_search(self.results) or SearchRecord()
        self.decisions, self.up = list(before.decisions), list(before.up)
        self._skips: Sequence[SkippedServer] = before.skips
        self._kept: dict[str, ReservedHours] = before.kept
        self._waiting: Sequence[WaitingRun] = before.runs_waiting

    def next(self, busy: Collection[str], failed: Collection[str], hours_left: float | None) -> Experiment | None:
        """The experiment to send now, with the load to begin with; ``None`` when there is none for now.

        ``busy`` and ``failed``: ids of experiments under way, and of those that do not come to an end.
        ``hours_left``: GPU-hours that may still be promised, what is under way taken off.
        """
        for decision in self.decisions:
            name = decision.experiment
            if name not in self._experiments or name in busy or name in failed:
                continue
            experiment = self._with_loads(name, self._loads_of(decision))
            if any(not self.results.folder_of(experiment).finished(load) for load in experiment.loads):
                return experiment
        for name in [name for name in self.up if name not in busy]:
            # Its server was up when a controller before this one ended: it goes on as it would have.
            if name in failed or name not in self._experiments:
                self.up.remove(name)
            elif (further := self.go_on(name, busy, failed, hours_left)) is not None:
                return further
        if self.runs is not None and (run := self.runs.unfinished({*busy, *failed})) is not None:
            return run
        return self._decide(busy, failed, hours_left)

    def go_on(
        self, name: str, busy: Collection[str], failed: Collection[str], hours_left: float | None
    ) -> Experiment | None:
        """The experiment with a further load, now that its server is up and idle; ``None``: enough of it."""
        label = next((each.workload for each in reversed(self.decisions) if each.experiment == name), "")
        spaces, known = self._look(failed)
        if label in spaces and name in {each.id for each in spaces[label].candidates}:
            running = self._running(busy)
            rest = self._for_servers(hours_left)
            choice = go_on_among(spaces, label, known, running, name, rest, self._spent()).choice
            if choice is not None:
                return self._take(label, choice, start=False)
            hours = share(spaces, rest, self._spent())[label]
            running = {other: loads for other, loads in running.items() if other != name}
            if longer := self._find_longer(View(teach(spaces, known)[label], known, running), name, hours):
                return self._measure_longer(label, name, longer)
        self.up.remove(name)
        self._write()
        return None

    def _find_longer(self, view: View, name: str, hours_left: float | None) -> Longer | None:
        """The load of a server that is up that is worth measuring for longer, if there is one."""
        experiment = self._experiments[name]
        if experiment.mode == "gen_only":
            return None  # its servers are started anew for every load
        runs: dict[int, list[Measurement]] = {}
        for stored in self.results.folder_of(experiment).loads():
            if isinstance(stored.load, Concurrency):
                runs.setdefault(stored.load.concurrency, []).append(stored.measurement)
        measured = {load: pool(figures) for load, figures in runs.items()}
        wholes = self._wholes(name)
        requests = {load: (lengthen(each).num_requests, each.num_requests) for load, each in wholes.items()}
        targets = {load: each.target_ci or TARGET_CI for load, each in wholes.items()}
        return find_longer(view, view.space.find(name), measured, requests, hours_left, targets)

    def _measure_longer(self, label: str, name: str, longer: Longer) -> Experiment:
        """Write down that a load is measured again, for longer, and make it an experiment."""
        measured = {stored.load.label for stored in self.results.folder_of(self._experiments[name]).loads()}
        load = lengthen(self._wholes(name)[longer.load], measured)
        self._record(
            LoadDecision(
                number=len(self.decisions) + 1,
                workload=label,
                experiment=name,
                label=self._experiments[name].label,
                start=False,
                loads=(longer.load,),
                longer=LongerRun(load.num_requests, load.repeat),
                planned=(longer.load,),
                expected_gain=longer.gain,
                estimated_gpu_hours=longer.gpu_hours,
                price=longer.price,
                why=longer.why,
                knew=self._finished(),
            )
        )
        return self._with_loads(name, (load,))

    def _decide(self, busy: Collection[str], failed: Collection[str], hours_left: float | None) -> Experiment | None:
        spaces, known = self._look(failed)
        running = self._running(busy)
        promised = self._keep(spaces, known, running, hours_left)
        label, found = decide_among(spaces, known, running, self._for_servers(hours_left), self._spent())
        self._skips = [
            SkippedServer(label, skip.candidate, skip.label, skip.why)
            for label, decision in found.items()
            for skip in decision.skips
        ]
        self._skips += [
            SkippedServer("", name, self._experiments[name].label, "its job failed")
            for name in sorted(failed)
            if name in self._experiments
        ]
        choice = found[label].choice if label is not None else None
        if run := self._run_first(promised, choice, hours_left, alone=not busy):
            return run
        if label is None or choice is None:
            self.ended = None if busy else next(iter(found.values())).why
            self._write()
            return None
        return self._take(label, choice, start=True)

    def _keep(
        self,
        spaces: Mapping[str, Space],
        known: Known,
        running: Mapping[str, Collection[int]],
        hours_left: float | None,
    ) -> dict[str, Promised]:
        """Settle what is kept for end-to-end runs of each workload; what is promised of its servers beside them."""
        found: dict[str, Promised] = {}
        if self.runs is None or hours_left is None:
            return found
        taught = teach(spaces, known)
        shares = share(spaces, hours_left, self._spent())
        kept = {}
        for workload in self.sweep.workloads:
            label = workload.label
            before = self._kept[label].gpu_hours if label in self._kept else 0.0
            worth = _Worth(self.runs, workload, max(0.0, shares[label] or 0.0))
            found[label], hours = settle(View(taught[label], known, running), worth.gpu_hours, worth, before)
            runs = tuple(choice.deployment.label for choice in worth.choices)
            kept[label] = ReservedHours(hours, found[label].price, runs)
        self._kept = kept
        return found

    def _run_first(
        self, promised: Mapping[str, Promised], choice: Choice | None, hours_left: float | None, *, alone: bool
    ) -> Experiment | None:
        """An end-to-end run that brings more per GPU-hour now than the server that would be started next, as an
        experiment; why runs wait otherwise is kept. ``alone``: nothing else is under way."""
        self._waiting = []
        if self.runs is None or hours_left is None:
            return None
        found: dict[str, EndToEndChoice] = {}
        for workload in self.sweep.workloads:
            others = sum(each.gpu_hours for label, each in self._kept.items() if label != workload.label)
            if run := self.runs.next(workload, promised[workload.label], max(0.0, hours_left - others)):
                found[workload.label] = run
        if not found:
            return None
        best = max(found, key=lambda label: (found[label].share_per_hour, label))
        why = _why_wait(found[best], choice, alone)
        if why is None:
            kept = self._kept[best]
            left = max(0.0, kept.gpu_hours - found[best].gpu_hours)
            self._kept[best] = ReservedHours(left, kept.price, kept.runs)
            self._write()
            return self.runs.take(found[best], after=len(self.decisions))
        self._waiting = [WaitingRun(label, run.deployment.label, why) for label, run in found.items()]
        return None

    def _for_servers(self, hours_left: float | None) -> float | None:
        """GPU-hours that ctx and gen servers may have: without what is kept for end-to-end runs."""
        if hours_left is None:
            return None
        return max(0.0, hours_left - sum(each.gpu_hours for each in self._kept.values()))

    def _take(self, label: str, choice: Choice, *, start: bool) -> Experiment:
        """Write a choice down, and make it an experiment."""
        space = self._spaces[label]
        hours = space.hours(space.find(choice.candidate), (choice.load,), int(start))
        self._record(
            LoadDecision(
                number=len(self.decisions) + 1,
                workload=label,
                experiment=choice.candidate,
                label=choice.label,
                start=start,
                loads=(choice.load,),
                planned=tuple(choice.planned),
                expected_gain=choice.gain,
                estimated_gpu_hours=hours,
                price=choice.price,
                why=choice.why,
                knew=self._finished(),
            )
        )
        return self._with_loads(choice.candidate, (shorten(self._wholes(choice.candidate)[choice.load]),))

    def _record(self, decision: LoadDecision) -> None:
        """Write a decision down."""
        self.decisions.append(decision)
        if decision.experiment not in self.up:
            self.up.append(decision.experiment)
        self._write()

    def num_planned(self, name: str) -> int:
        """Loads that are planned of the experiment beside the one decided last."""
        last = next((each for each in reversed(self.decisions) if each.experiment == name), None)
        return len(last.planned) - 1 if last else 0

    def _look(self, failed: Collection[str]) -> tuple[dict[str, Space], dict[str, dict[int, Rate]]]:
        """The spaces as they stand, and the rates measured."""
        rows = self.results.measured()
        known = read_known(rows)
        spoilt: dict[str, set[int]] = {}
        for row in rows:
            if not row.measurement.valid and isinstance(row.load, Concurrency):
                spoilt.setdefault(row.experiment.id, set()).add(row.load.concurrency)
        usable = {
            label: replace(space, candidates=tuple(_usable(space.candidates, known, spoilt, failed)))
            for label, space in self._spaces.items()
        }
        return usable, known

    def _running(self, busy: Collection[str]) -> dict[str, list[int]]:
        """Loads decided on, of experiments under way."""
        running: dict[str, list[int]] = {}
        for decision in self.decisions:
            if decision.experiment in busy:
                running.setdefault(decision.experiment, []).extend(decision.loads)
        return running

    def _spent(self) -> dict[str, float]:
        """Estimated GPU-hours of what was decided, by workload."""
        spent = dict.fromkeys(self._spaces, 0.0)
        for decision in self.decisions:
            spent[decision.workload] = spent.get(decision.workload, 0.0) + decision.estimated_gpu_hours
        if self.runs is not None:
            for label in spent:
                spent[label] += self.runs.spent(label)
        return spent

    def _finished(self) -> tuple[int, ...]:
        """Numbers of the decisions whose loads are measured."""
        return tuple(
            each.number
            for each in self.decisions
            if each.experiment in self._experiments
            and all(
                self.results.folder_of(self._experiments[each.experiment]).finished(load)
                for load in self._loads_of(each)
            )
        )

    def _wholes(self, name: str) -> dict[int, Concurrency]:
        """The loads of an experiment as the sweep asks for them, by concurrency."""
        loads = self._experiments[name].loads
        return {load.concurrency: load for load in loads if isinstance(load, Concurrency) and load.repeat == 0}

    def _loads_of(self, decision: LoadDecision) -> list[Concurrency]:
        """What a decision on record asks for, as far as the sweep still has it."""
        wholes = self._wholes(decision.experiment)
        asked = [wholes[load] for load in decision.loads if load in wholes]
        if (longer := decision.longer) is not None:
            return [replace(whole, num_requests=longer.num_requests, repeat=longer.repeat) for whole in asked]
        return [shorten(whole) for whole in asked]

    def _with_loads(self, name: str, loads: Sequence[Load]) -> Experiment:
        """The experiment with ``loads``, beside those it was asked for before."""
        experiment = self._experiments[name]
        folder = self.results.folder_of(experiment)
        before = folder.read().loads if (folder.path / "experiment.json").exists() else ()
        return replace(experiment, loads=tuple(dict.fromkeys([*before, *loads])))

    def _write(self) -> None:
        write_search(
            self.results,
            SearchRecord(
                tuple(self.decisions),
                tuple(self._skips),
                tuple(self.up),
                self.ended,
                self._kept,
                tuple(self._waiting),
            ),
        )


def _why_wait(run: EndToEndChoice, choice: Choice | None, alone: bool) -> str | None:
    """Why an end-to-end run is not sent now, if it is not."""
    told = f"{run.share_per_hour:.2%} of the front a GPU-hour, with a chance of {run.chance:.0%} to stay on it"
    if choice is None:
        return "servers are searched to the end: chosen with what IFB shows" if alone else None
    if choice.urgency[0]:
        return f"{told}; {choice.label} comes first: without it nothing is known of its family"
    if choice.gain / choice.gpu_hours >= run.share_per_hour:
        return f"{told}; {choice.label} brings {choice.gain / choice.gpu_hours:.2%}"
    return None


@dataclass
class _Worth:
    """What end-to-end runs cost that would be worth it on a promised front; ``choices``: they, at the last call."""

    runs: EndToEnd
    workload: Workload
    gpu_hours: float
    choices: list[EndToEndChoice] = field(default_factory=list)

    def __call__(self, promised: Promised) -> float:
        self.choices = self.runs.worth(self.workload, promised, self.gpu_hours)
        return sum(choice.gpu_hours for choice in self.choices)


def _usable(
    candidates: Iterable[Candidate],
    known: dict[str, dict[int, Rate]],
    spoilt: dict[str, set[int]],
    failed: Collection[str],
) -> Iterable[Candidate]:
    """Without servers whose job failed, and without loads that were measured and are not valid."""
    for each in candidates:
        left = {
            load: rate
            for load, rate in each.forecasts.items()
            if load not in spoilt.get(each.id, ()) or load in known.get(each.id, ())
        }
        if each.id not in failed and left:
            yield replace(each, forecasts=left)


@dataclass(frozen=True)
class Supplier:
    """Answers out of ``search`` within the sweep's budget. ``kept``: GPU-hours of it that are for later stages;
    ``failed``: ids of experiments that came to no end."""

    sweep: Sweep
    results: Results
    search: Search
    kept: float
    failed: Callable[[], Collection[str]]

    def next(self, busy: Sequence[Experiment]) -> Experiment | None:
        return self.search.next({each.id for each in busy}, self.failed(), self._hours_left(busy))

    def sent(self, folder: ExperimentFolder) -> None:
        """``folder`` is about to be measured: more may follow what is asked for now."""
        experiment = folder.read()
        if experiment.stage in ("ctx", "gen") and experiment.mode != "gen_only" and len(experiment.launches()) == 1:
            # Each load may be measured for longer besides; a job's time should do for it.
            followup.open_for_more(folder, 2 * self.search.num_planned(experiment.id) + 1)

    def answer(self, folder: ExperimentFolder, busy: Sequence[Experiment]) -> None:
        """Its driver waits for a further load: give it one, or let it end."""
        name = folder.read().id
        experiment = self.search.go_on(name, {each.id for each in busy}, self.failed(), self._hours_left(busy))
        if experiment is None:
            followup.close(folder)
        else:
            self.results.add(experiment, self.sweep.cluster)

    def _hours_left(self, busy: Sequence[Experiment]) -> float | None:
        if self.sweep.budget.gpu_hours is None:
            return None
        asked = [self.results.folder_of(each).read() for each in busy]
        under_way = sum(minutes_of(self.sweep, each) * each.deployment.gpus / 60 for each in asked)
        return self.sweep.budget.gpu_hours - self.kept - self.results.account().total - under_way
