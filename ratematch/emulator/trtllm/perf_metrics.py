"""Joins the timing records of context and generation workers with the orchestrator's own (contract, section 5.2)."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

from ratematch.emulator.protocol import Json
from ratematch.emulator.trtllm.times import timing_of_fields


@dataclass
class Forwarded:
    """One forwarded request: which servers took it, and the orchestrator's times (seconds, steady clock).
    ``fields``: what its workers sent of their times, by phase."""

    arrival_s: float
    ctx_server: str | None = None
    gen_server: str | None = None
    ctx_request_id: int | None = None
    first_token_s: float | None = None
    ctx_dispatch_s: float | None = None
    disagg_request_id: int | None = None
    fields: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def own_times(self) -> dict[str, float | None]:
        """The orchestrator's own instants, by name."""
        return {
            "server_arrival_time": self.arrival_s,
            "ctx_dispatch_time": self.ctx_dispatch_s,
            "server_first_token_time": self.first_token_s,
        }

    def as_late_record(self) -> Json:
        """A line of the orchestrator's file of a late release: its workers' times are those of their headers."""
        record: Json = {
            "ctx_server": self.ctx_server,
            "gen_server": self.gen_server,
            **{f"disagg_{name}": value for name, value in self.own_times.items()},
            "status": "complete",
            "disagg_request_id": self.disagg_request_id,
        }
        for phase, fields in self.fields.items():
            if fields:
                timing = {"timing_metrics": timing_of_fields(fields)}
                record[f"{phase}_perf_metrics"] = {"request_id": "", "perf_metrics": timing}
        return record


class PerfJoin:
    """Keeps up to ``keep`` forwarded requests, and worker records per role, until their partners are there."""

    def __init__(self, keep: int):
        self.keep = keep
        self._forwarded: deque[Forwarded] = deque(maxlen=keep)
        self._records: dict[str, OrderedDict[tuple[str, Any], deque[Json]]] = {
            "ctx": OrderedDict(),
            "gen": OrderedDict(),
        }

    def forwarded(self, record: Forwarded) -> None:
        """Keep a finished request; one that was not handed over has nothing to join."""
        if self.keep and record.ctx_request_id is not None:
            self._forwarded.append(record)

    def add(self, role: str, server: str, entries: list[Json]) -> None:
        """Keep records that a worker gave out."""
        kept = self._records[role]
        for entry in entries:
            kept.setdefault((server, entry.get("ctx_request_id")), deque()).append(entry)
        while len(kept) > 2 * self.keep:
            kept.popitem(last=False)

    def _take(self, role: str, server: str | None, request_id: Any) -> Json:
        key = (str(server), request_id)
        waiting = self._records[role][key]
        entry = waiting.popleft()
        if not waiting:
            del self._records[role][key]
        return entry

    def drain(self) -> list[Json]:
        """Complete records; incomplete ones stay for the next call."""
        answer: list[Json] = []
        rest: list[Forwarded] = []
        for record in self._forwarded:
            number = record.ctx_request_id
            roles = [("gen", record.gen_server)] + ([("ctx", record.ctx_server)] if record.ctx_server else [])
            if any((str(server), number) not in self._records[role] for role, server in roles):
                rest.append(record)
                continue
            gen = self._take("gen", record.gen_server, number)
            ctx = self._take("ctx", record.ctx_server, number) if record.ctx_server else None
            answer.append(
                {
                    "ctx_server": record.ctx_server,
                    "gen_server": record.gen_server,
                    "disagg_server_arrival_time": record.arrival_s,
                    "disagg_server_first_token_time": record.first_token_s,
                    "ctx_perf_metrics": ctx,
                    "gen_perf_metrics": gen,
                }
            )
        self._forwarded.clear()
        self._forwarded.extend(rest)
        return answer
