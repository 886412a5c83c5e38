"""``search: adaptive``: the campaign's ctx and gen jobs, decided one by one from what is measured.

A job begins with one load. When that is measured its servers are up and idle, and the next load of theirs is decided
on, or that they may stop (:mod:`ratematch.run.followup`).

Every decision, with what it was expected to bring and what was passed over for which reason, is written to
``search.json`` before its job is sent. A sweep that is started again first finishes the decisions that stand there,
then decides on: the same results lead to the same decisions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import msgspec

from ratematch.campaign.decisions import (
    LoadDecision,
    LongerRun,
    SearchRecord,
    SkippedServer,
    WaitingRun,
    read_search,
    write_search,
)
from ratematch.campaign.endtoend import EndToEnd
from ratematch.campaign.reserve import best_runs, reserve_hours, why_wait
from ratematch.campaign.turn import Turn
from ratematch.measure.measurement import Measurement
from ratematch.plan.budget import minutes_of
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.sweep import Sweep
from ratematch.search.candidates import Candidate, Known, Rate, Space
from ratematch.search.decide import Choice, Decision
from ratematch.search.price import Pricing
from ratematch.search.repeats import TARGET_CI, LongerRunOffer, find_longer_run, pool
from ratematch.search.space import lengthen, make_space, read_known, shorten
from ratematch.search.view import View
from ratematch.search.workloads import decide_among, go_on_among, share_deviations, share_hours
from ratematch.simulate.forecasts import forecast_experiment
from ratematch.simulate.steadystate import Forecast
from ratematch.store.folder import Results


class Search:
    """The adaptive search of one sweep: what it decided (``record``, as it is on disk), and what it decides next.

    The methods :meth:`decide_next` and :meth:`decide_further` write what they decide.
    """

    def __init__(
        self,
        sweep: Sweep,
        results: Results,
        servers: Sequence[Experiment],
        runs: EndToEnd | None = None,
        ifb_gpu_hours: float = 0.0,
    ):
        """Goes on from the ``search.json`` in ``results``, if there is one.

        ``servers``: all ctx and gen experiments of the sweep, with whole ladders. ``runs``: end-to-end runs that
        compete for the same hours; ``None``: the sweep has none, or no budget to compete for. ``ifb_gpu_hours``: of
        the budget, kept for aggregated servers that are measured later.
        """
        self._sweep = sweep
        self._results = results
        self._runs = runs
        self._ifb_gpu_hours = ifb_gpu_hours
        self._servers = {experiment.id: experiment for experiment in servers}
        forecasts: dict[str, dict[Load, Forecast]] = {
            experiment.id: forecast_experiment(experiment, sweep.cluster, sweep.step_times) for experiment in servers
        }
        self._spaces: dict[str, Space] = {
            workload.label: make_space(sweep, workload, servers, forecasts) for workload in sweep.workloads
        }
        before = read_search(results) or SearchRecord()
        self.record: SearchRecord = msgspec.structs.replace(before, ended=None)

    # -- what the controller asks for ---------------------------------------------------------------------------

    def decide_next(self, turn: Turn) -> Experiment | None:
        """The experiment to send now, with the load to begin with; ``None`` when there is none for now."""
        not_now = turn.busy_ids | turn.failed
        for decision in self.record.decisions:
            if decision.experiment in self._servers and decision.experiment not in not_now:
                experiment = self._with_loads(turn, decision.experiment, self._loads_of(decision))
                if turn.missing(experiment):
                    return experiment
        for name in [name for name in self.record.up if name not in turn.busy_ids]:
            # Its server was up when a controller before this one ended: it goes on as it would have.
            if name in turn.failed or name not in self._servers:
                self._mark_stopped(name)
            elif (further := self.decide_further(turn, name)) is not None:
                return further
        if self._runs is not None and (run := self._runs.unfinished(turn, not_now)) is not None:
            return run
        return self._decide(turn)

    def decide_further(self, turn: Turn, name: str) -> Experiment | None:
        """The experiment of this id with a further load, now that its server is up and idle; ``None``: enough."""
        last = self._last_decision(name)
        spaces, known = self._usable_spaces(turn)
        space = spaces.get(last.workload) if last is not None else None
        if last is not None and space is not None and name in {candidate.id for candidate in space.candidates}:
            label, running, hours_left = last.workload, self._running(turn), self._hours_left(turn)
            rest, spent = self._for_servers(hours_left), self._spent()
            choice = go_on_among(spaces, label, known, running, name, rest, spent).choice
            if choice is not None:
                return self._take(turn, label, choice, start=False)
            hours = share_hours(spaces, rest, spent)[label]
            others = {other: loads for other, loads in running.items() if other != name}
            view = View(share_deviations(spaces, known)[label], known, others)
            if longer := self._find_longer(turn, view, name, hours):
                return self._take_longer(turn, label, name, longer)
        self._mark_stopped(name)
        self._write()
        return None

    def num_further(self, experiment: Experiment) -> int:
        """Loads that may follow while the servers of an experiment that was decided on are up; none where it does not
        belong to the search, or servers are started anew for every load."""
        if experiment.id not in self._servers or experiment.mode == "gen_only" or len(experiment.launches()) != 1:
            return 0
        last = self._last_decision(experiment.id)
        # Each load may be measured for longer besides; a job's time should do for it.
        return 1 + 2 * (len(last.planned) - 1 if last else 0)

    # -- decisions ----------------------------------------------------------------------------------------------

    def _decide(self, turn: Turn) -> Experiment | None:
        """A server to start or an end-to-end run, whichever brings more per GPU-hour; why the others wait."""
        hours_left = self._hours_left(turn)
        spaces, known = self._usable_spaces(turn)
        running = self._running(turn)
        pricings = self._reserve_for_runs(turn, spaces, known, hours_left)
        label, decisions = decide_among(spaces, known, running, self._for_servers(hours_left), self._spent())
        self._update(skips=self._skips(decisions, turn.failed), runs_waiting=())
        choice = decisions[label].choice if label is not None else None
        if pricings and hours_left is not None and (run := self._run_first(turn, pricings, choice, hours_left)):
            return run
        if label is None or choice is None:
            self._update(ended=None if turn.busy else next(iter(decisions.values())).why)
            self._write()
            return None
        return self._take(turn, label, choice, start=True)

    def _reserve_for_runs(
        self, turn: Turn, spaces: Mapping[str, Space], known: Known, hours_left: float | None
    ) -> dict[str, Pricing]:
        """Settle what is kept for end-to-end runs of each workload; the pricing of the hours beside them."""
        if self._runs is None or hours_left is None:
            return {}
        taught, running = share_deviations(spaces, known), self._running(turn)
        shares = share_hours(spaces, hours_left, self._spent())
        pricings, kept = {}, {}
        for workload in self._sweep.workloads:
            label = workload.label
            view = View(taught[label], known, running)
            before = self.record.kept[label].gpu_hours if label in self.record.kept else 0.0
            hours = max(0.0, shares[label] or 0.0)
            pricings[label], kept[label] = reserve_hours(self._runs, turn, workload, view, hours, before)
        self._update(kept=kept)
        return pricings

    def _run_first(
        self, turn: Turn, pricings: Mapping[str, Pricing], server: Choice | None, hours_left: float
    ) -> Experiment | None:
        """An end-to-end run that brings more per GPU-hour now than the ``server`` that would be started next, as an
        experiment; why runs wait otherwise is kept."""
        assert self._runs is not None
        runs = best_runs(self._runs, turn, pricings, self.record.kept, hours_left)
        if not runs:
            return None
        best = max(runs, key=lambda label: (runs[label].share_per_hour, label))
        why = why_wait(runs[best], server, alone=not turn.busy)
        if why is not None:
            waiting = tuple(WaitingRun(label, run.deployment.label, why) for label, run in runs.items())
            self._update(runs_waiting=waiting)
            return None
        kept = self.record.kept[best]
        left = msgspec.structs.replace(kept, gpu_hours=max(0.0, kept.gpu_hours - runs[best].gpu_hours))
        self._update(kept={**self.record.kept, best: left})
        self._write()
        return self._runs.take(runs[best], after=len(self.record.decisions))

    def _find_longer(self, turn: Turn, view: View, name: str, hours_left: float | None) -> LongerRunOffer | None:
        """The load of a server that is up that is worth measuring for longer, if there is one."""
        experiment = self._servers[name]
        if experiment.mode == "gen_only":
            return None  # its servers are started anew for every load
        runs: dict[int, list[Measurement]] = {}
        for stored in turn.loads(experiment):
            if isinstance(stored.load, Concurrency):
                runs.setdefault(stored.load.concurrency, []).append(stored.measurement)
        measured = {load: pool(figures) for load, figures in runs.items()}
        wholes = self._wholes(name)
        requests = {load: (lengthen(whole).num_requests, whole.num_requests) for load, whole in wholes.items()}
        targets = {load: whole.target_ci or TARGET_CI for load, whole in wholes.items()}
        return find_longer_run(view, view.space.find(name), measured, requests, hours_left, targets)

    def _take(self, turn: Turn, label: str, choice: Choice, *, start: bool) -> Experiment:
        """Write that a server is measured at a load, and make it an experiment."""
        space = self._spaces[label]
        hours = space.hours(space.find(choice.candidate), (choice.load,), int(start))
        self._append(
            LoadDecision(
                number=len(self.record.decisions) + 1,
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
                knew=self._finished(turn),
            )
        )
        load = shorten(self._wholes(choice.candidate)[choice.load])
        return self._with_loads(turn, choice.candidate, (load,))

    def _take_longer(self, turn: Turn, label: str, name: str, longer: LongerRunOffer) -> Experiment:
        """Write that a load is measured again, for longer, and make it an experiment."""
        measured = {stored.load.label for stored in turn.loads(self._servers[name])}
        load = lengthen(self._wholes(name)[longer.load], measured)
        self._append(
            LoadDecision(
                number=len(self.record.decisions) + 1,
                workload=label,
                experiment=name,
                label=self._servers[name].label,
                start=False,
                loads=(longer.load,),
                longer=LongerRun(load.num_requests, load.repeat),
                planned=(longer.load,),
                expected_gain=longer.gain,
                estimated_gpu_hours=longer.gpu_hours,
                price=longer.price,
                why=longer.why,
                knew=self._finished(turn),
            )
        )
        return self._with_loads(turn, name, (load,))

    # -- what decisions rest on ---------------------------------------------------------------------------------

    def _usable_spaces(self, turn: Turn) -> tuple[dict[str, Space], dict[str, dict[int, Rate]]]:
        """The spaces without what failed or is not valid, and the rates measured."""
        rows = turn.rows()
        known = read_known(rows)
        spoilt: dict[str, set[int]] = {}
        for row in rows:
            if not row.measurement.valid and isinstance(row.load, Concurrency):
                spoilt.setdefault(row.experiment.id, set()).add(row.load.concurrency)
        usable = {
            label: replace(space, candidates=tuple(_usable(space.candidates, known, spoilt, turn.failed)))
            for label, space in self._spaces.items()
        }
        return usable, known

    def _hours_left(self, turn: Turn) -> float | None:
        """GPU-hours that may still be promised: what later stages and experiments under way need is taken off."""
        budget = self._sweep.budget.gpu_hours
        if budget is None:
            return None
        under_way = sum(
            minutes_of(self._sweep, experiment) * experiment.deployment.gpus / 60 for experiment in turn.busy
        )
        return budget - self._ifb_gpu_hours - turn.gpu_hours - under_way

    def _for_servers(self, hours_left: float | None) -> float | None:
        """GPU-hours that ctx and gen servers may have: without what is kept for end-to-end runs."""
        if hours_left is None:
            return None
        return max(0.0, hours_left - sum(hours.gpu_hours for hours in self.record.kept.values()))

    def _running(self, turn: Turn) -> dict[str, list[int]]:
        """Loads decided on, of experiments under way."""
        busy = turn.busy_ids
        running: dict[str, list[int]] = {}
        for decision in self.record.decisions:
            if decision.experiment in busy:
                running.setdefault(decision.experiment, []).extend(decision.loads)
        return running

    def _spent(self) -> dict[str, float]:
        """Estimated GPU-hours of what was decided, by workload."""
        spent = dict.fromkeys(self._spaces, 0.0)
        for decision in self.record.decisions:
            spent[decision.workload] = spent.get(decision.workload, 0.0) + decision.estimated_gpu_hours
        if self._runs is not None:
            for label in spent:
                spent[label] += self._runs.spent(label)
        return spent

    def _finished(self, turn: Turn) -> tuple[int, ...]:
        """Numbers of the decisions whose loads are measured."""
        return tuple(
            decision.number
            for decision in self.record.decisions
            if decision.experiment in self._servers
            and not turn.missing(replace(self._servers[decision.experiment], loads=self._loads_of(decision)))
        )

    def _skips(self, decisions: Mapping[str, Decision], failed: Collection[str]) -> tuple[SkippedServer, ...]:
        passed_over = [
            SkippedServer(label, skip.candidate, skip.label, skip.why)
            for label, decision in decisions.items()
            for skip in decision.skips
        ]
        broken = [
            SkippedServer("", name, self._servers[name].label, "its job failed")
            for name in sorted(failed)
            if name in self._servers
        ]
        return (*passed_over, *broken)

    def _last_decision(self, name: str) -> LoadDecision | None:
        decisions = reversed(self.record.decisions)
        return next((decision for decision in decisions if decision.experiment == name), None)

    # -- loads --------------------------------------------------------------------------------------------------

    def _wholes(self, name: str) -> dict[int, Concurrency]:
        """The loads of an experiment as the sweep asks for them, by concurrency."""
        loads = self._servers[name].loads
        return {load.concurrency: load for load in loads if isinstance(load, Concurrency) and load.repeat == 0}

    def _loads_of(self, decision: LoadDecision) -> tuple[Concurrency, ...]:
        """What a decision on record asks for, as far as the sweep still has it."""
        by_concurrency = self._wholes(decision.experiment)
        wholes = [by_concurrency[load] for load in decision.loads if load in by_concurrency]
        if (longer := decision.longer) is not None:
            return tuple(replace(whole, num_requests=longer.num_requests, repeat=longer.repeat) for whole in wholes)
        return tuple(shorten(whole) for whole in wholes)

    def _with_loads(self, turn: Turn, name: str, loads: Sequence[Load]) -> Experiment:
        """The experiment with ``loads``, beside those it was asked for before."""
        server = self._servers[name]
        before = turn.experiment(name)
        return replace(server, loads=tuple(dict.fromkeys([*(before.loads if before else ()), *loads])))

    # -- the record ---------------------------------------------------------------------------------------------

    def _append(self, decision: LoadDecision) -> None:
        """Write a decision after those before it; its server is up from now on."""
        name, up = decision.experiment, self.record.up
        self._update(
            decisions=(*self.record.decisions, decision), up=up if name in up else (*up, decision.experiment)
        )
        self._write()

    def _mark_stopped(self, name: str) -> None:
        self._update(up=tuple(other for other in self.record.up if other != name))

    def _update(self, **changes: object) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)

    def _write(self) -> None:
        write_search(self._results, self.record)


def _usable(
    candidates: Iterable[Candidate],
    known: Mapping[str, Mapping[int, Rate]],
    spoilt: Mapping[str, Collection[int]],
    failed: Collection[str],
) -> Iterable[Candidate]:
    """Without servers whose job failed, and without loads that were measured and are not valid."""
    for candidate in candidates:
        left = {
            load: rate
            for load, rate in candidate.forecasts.items()
            if load not in spoilt.get(candidate.id, ()) or load in known.get(candidate.id, ())
        }
        if candidate.id not in failed and left:
            yield replace(candidate, forecasts=left)
