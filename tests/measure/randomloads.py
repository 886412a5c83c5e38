"""Loads of random records of every kind: full answers, failures, strange streams, chunks that came together."""

from __future__ import annotations

import random

from ratematch.measure.clienthealth import ClientHealth
from ratematch.measure.goodput import Goodput, parse_goodput
from ratematch.measure.records import CONTRADICTS, UNKNOWN_FIELDS, Outcome, RequestRecord
from ratematch.plan.load import Concurrency, Load, Rate
from ratematch.plan.workload import Workload

FAILURES: tuple[Outcome, ...] = (
    "http_error",
    "connect_error",
    "timeout",
    "reset",
    "truncated",
    "bad_stream",
    "cancelled",
)
GOALS = (None, "ttft<=300,tpot<=12", "itl<=30,ttst<=20", "e2el<=900")


def random_load(seed: int, most: int = 300) -> tuple[list[RequestRecord], Load, Workload]:
    """Its records in the order of their sending, which need not be that of ``seq``."""
    draw = random.Random(seed)
    number = draw.choice([0, 1, 3, draw.randrange(8, most)])
    concurrency = draw.choice([1, 4, 16])
    closed = draw.random() < 0.6
    odd, osl = draw.choice([0.0, 0.02, 0.4]), draw.choice([1, 2, 8, 40])
    slots = [draw.randrange(10**12) if seed % 7 else 10**12] * concurrency
    records = []
    for seq in range(number):
        slot = seq % concurrency
        begin = slots[slot] if closed else slots[0] + seq * 20_000_000
        record = _request(draw, seq, begin, osl, odd)
        slots[slot] = max(slots[slot], record.end_ns or 0)
        records.append(record)
    if draw.random() < 0.3:
        draw.shuffle(records)
    load: Load = Concurrency(concurrency, max(1, number)) if closed else Rate(50.0, max(1, number))
    return records, load, Workload(64, osl, isl_ratio=draw.choice([1.0, 0.5]), prefix_share=draw.choice([0.0, 0.25]))


def random_goal(seed: int) -> Goodput | None:
    text = GOALS[seed % len(GOALS)]
    return None if text is None else parse_goodput(text)


def random_client(seed: int) -> ClientHealth | None:
    draw = random.Random(-1 - seed)
    if draw.random() < 0.5:
        return None
    return ClientHealth(
        draw.random() * 1.2, draw.random() * 40, 50.0, 8, 7.5, draw.randrange(40), 10.0, 3.0, True, "x"
    )


def _request(draw: random.Random, seq: int, begin: int, osl: int, odd: float) -> RequestRecord:
    sent = begin + draw.randrange(2_000_000)
    record = RequestRecord(seq, begin, sent, isl=64 - 64 * (draw.random() < odd / 4), osl_requested=osl, status=200)
    if draw.random() < odd / 2:
        record.outcome = draw.choice(FAILURES)
        record.error = draw.choice([None, "HTTP 500: no", f"reset {seq % 3}", "ü€"])
        record.end_ns = sent + draw.randrange(10**9)
        record.sent_ns = None if draw.random() < 0.2 else sent
        return record
    instant = sent + draw.randrange(50_000_000, 400_000_000)
    for _ in range(osl):
        record.chunk_ns = [*record.chunk_ns, instant]
        instant += draw.choice([0, 10_000, 9_000_000, 10_000_000, 10_500_000 + draw.randrange(10**6)])
    record.first_token_ns, record.last_token_ns = record.chunk_ns[0], record.chunk_ns[-1]
    record.end_ns = record.last_token_ns + draw.choice([0, 100, 30_000_000])
    record.osl, record.finish_reason = osl, draw.choice(["length", "stop", None])
    record.isl_reported = draw.choice([None, 64, 65, 64])
    if draw.random() < odd:
        _make_odd(draw, record)
    return record


def _make_odd(draw: random.Random, record: RequestRecord) -> None:
    match draw.randrange(8):
        case 0:
            record.osl = draw.choice([None, 0, 1, 3 * len(record.chunk_ns)])
        case 1:
            record.later_tokens = draw.choice([0, max(0, len(record.chunk_ns) - 2)])
        case 2:
            record.other_first_ns = (record.first_token_ns or 0) + draw.choice([-1, 1]) * 40_000_000
            record.stream_note = f"{UNKNOWN_FIELDS}: x"
        case 3:
            record.other_last_ns = (record.last_token_ns or 0) + 9_000_000
            record.stream_note = f"{CONTRADICTS}: it falls"
        case 4:
            record.chunk_ns, record.first_token_ns = [], None
        case 5:
            record.cached_tokens = draw.choice([0, 16, 64])
        case 6:
            record.decoded_per_iter = draw.choice([1.0, 1.7, 2.5])
        case _:
            record.session, record.turn = draw.randrange(5), draw.randrange(3)
