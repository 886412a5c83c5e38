"""One server in virtual time: the emulator's scheduler, run step after step by a :class:`Timeline`."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ratematch.emulator.admission import Admissions, check_gate
from ratematch.emulator.scheduler import Emission, Scheduler, Sequence, Step
from ratematch.simulate.timeline import LAST, Timeline

MOST_AHEAD = 4096
"""Iterations that one event may stand for."""

OnEmission = Callable[[Emission], None]


class Server:
    """Runs a scheduler as the emulator's engine does, without a clock. ``busy_s``: time spent in steps."""

    def __init__(self, name: str, scheduler: Scheduler, timeline: Timeline):
        self.name = name
        self.scheduler = scheduler
        self.busy_s = 0.0
        self._timeline = timeline
        self._admissions = Admissions()
        self._owners: dict[int, OnEmission] = {}
        self._step: Step | None = None
        self._version = 0  # of the step in flight: an event of one that was cut since is void
        self._ends = array("d", [0.0])  # of every iteration since the start, by its number
        self._asleep = True

    def submit(
        self, sequence: Sequence, on_emission: OnEmission, on_admitted: Callable[[], None] | None = None
    ) -> None:
        """Queue ``sequence``. ``on_emission`` gets its emissions: the end of its prompt and its last token.

        Raises:
            ValueError: it can never run here.
        """
        self.scheduler.add(sequence, self._timeline.now_s)
        self._owners[sequence.id] = on_emission
        if on_admitted is not None:
            self._admissions.expect(sequence, on_admitted)
        self._changed()

    def release(self, sequence_id: int) -> None:
        """Free the KV blocks of a finished context-only sequence."""
        if self.scheduler.release(sequence_id):
            self._changed()

    def cancel(self, sequence_id: int) -> None:
        """Drop a sequence; it has no further emissions."""
        if self._owners.pop(sequence_id, None) is not None:
            self._changed()
            self.scheduler.cancel(sequence_id)

    def token_times(self, sequence: Sequence) -> NDArray[np.float64]:
        """When each iteration ended in which ``sequence``, now finished, decoded. Shape (iterations,)."""
        if sequence.gains is None:
            return np.empty(0)
        return np.array(self._ends[sequence.first_iter : sequence.last_iter + 1])

    def _changed(self) -> None:
        """Something came or went: a step that stands for many ends at its next one; an idle server looks again."""
        if self._step is not None:
            if self._step.count > 1:
                shorter = self.scheduler.cut(self._step, self._timeline.now_s)
                if shorter.count < self._step.count:
                    self._fly(shorter)
        elif self._asleep:
            self._asleep = False
            # After everything else of this instant, so that requests sent together meet in one step.
            self._timeline.at(self._timeline.now_s, self._begin, LAST)

    def _begin(self) -> None:
        if self._step is not None:
            return
        now_s = self._timeline.now_s
        step = self.scheduler.begin(now_s, MOST_AHEAD)
        self._admissions.notify()
        if step is not None:
            self._fly(step)
            return
        check_gate(self.scheduler)
        self._asleep = True
        wake_s = self.scheduler.wake_s()
        if wake_s is not None:
            self._timeline.at(wake_s, self._begin, LAST)

    def _fly(self, step: Step) -> None:
        self._step = step
        self._version += 1
        version = self._version
        self._timeline.at(step.end_s, lambda: self._finish(version))

    def _finish(self, version: int) -> None:
        step = self._step
        if version != self._version or step is None:
            return
        self._step = None
        if step.ends_s is None:
            self._ends.append(step.end_s)
        else:
            self._ends.extend(step.ends_s.tolist())
        self.busy_s += step.duration_s
        for emission in self.scheduler.finish(step, step.end_s, all_tokens=False):
            on_emission = self._owners.get(emission.seq.id)
            if on_emission is not None:
                if emission.finished:
                    del self._owners[emission.seq.id]
                on_emission(emission)
        self._asleep = False
        self._timeline.at(self._timeline.now_s, self._begin, LAST)
