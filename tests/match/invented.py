"""Invented measurements with a known truth."""

from __future__ import annotations

from ratematch.measure.measured import Measured
from ratematch.measure.measurement import Measurement
from ratematch.measure.stats import Stats
from ratematch.plan.deployment import Deployment, ServerGroup, Stage
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import Parallelism, parse_mapping
from ratematch.plan.workload import Workload

WORKLOAD = Workload(1024, 201)


def constant(value: float, tail: float = 1.0) -> Stats:
    """A metric that is ``value`` on average and ``tail`` times that at every percentile above the median."""
    high = value * tail
    return Stats(n=100, mean=value, std=0.0, min=value, p50=value, p90=high, p95=high, p99=high, max=high)


def measurement(
    *, req_s: float, osl: float, ttft_ms: float, tpot_ms: float | None, valid: bool = True, tail: float = 1.0
) -> Measurement:
    """Figures that obey Little's law."""
    return Measurement(
        num_requests=100,
        num_ok=100,
        num_failed=0,
        window=None,
        ttft_ms=constant(ttft_ms, tail),
        tpot_ms=constant(tpot_ms, tail) if tpot_ms else None,
        itl_ms=None,
        e2el_ms=None,
        send_lag_ms=None,
        tok_s_user=1000 / tpot_ms if tpot_ms else None,
        tok_s=req_s * osl,
        req_s=req_s,
        tok_s_run=req_s * osl,
        req_s_run=req_s,
        isl_mean=1024,
        osl_mean=osl,
        in_flight=req_s * (ttft_ms + (osl - 1) * (tpot_ms or 0)) / 1000,
        little=1.0,
        valid=valid,
        reasons=() if valid else ("invented reason",),
    )


def group(role: str, mapping: Parallelism | str, instances: int = 1, mtp: int = 0, **fields: object) -> ServerGroup:
    shape = parse_mapping(mapping) if isinstance(mapping, str) else mapping
    return ServerGroup(role, shape, instances, mtp, **fields)  # type: ignore[arg-type]


def experiment(
    stage: Stage, deployment: Deployment, *, workload: Workload = WORKLOAD, emulated: bool = True, model: str = "m"
) -> Experiment:
    return Experiment(stage, model, "/m", EngineRef(), "h200", "here", emulated, deployment, workload, ())


def ctx_rows(
    mapping: str,
    rates: dict[int, float],
    *,
    mtp: int = 0,
    workload: Workload = WORKLOAD,
    tail: float = 1.0,
    **kwargs: bool,
) -> list[Measured]:
    """One ctx server: requests/s by concurrency, TTFT by Little's law."""
    of = experiment("ctx", Deployment(ctx=group("ctx", mapping, mtp=mtp)), workload=workload, **kwargs)
    return [
        Measured(of, Concurrency(c, 100), measurement(req_s=r, osl=1, ttft_ms=1000 * c / r, tpot_ms=None, tail=tail))
        for c, r in rates.items()
    ]


def gen_rows(
    mapping: str,
    decode_tok_s: dict[int, float],
    *,
    mtp: int = 0,
    instances: int = 1,
    tail: float = 1.0,
    **fields: object,
) -> list[Measured]:
    """Gen servers: decoded tok/s of one instance by requests decoding in it; TTFT 1 ms."""
    of = experiment("gen", Deployment(gen=group("gen", mapping, instances, mtp, **fields)))
    osl = WORKLOAD.osl
    return [
        Measured(
            of,
            Concurrency(c * instances, 100),
            measurement(req_s=instances * t / (osl - 1), osl=osl, ttft_ms=1, tpot_ms=1000 * c / t, tail=tail),
        )
        for c, t in decode_tok_s.items()
    ]


def ifb_rows(mapping: str, points: dict[int, tuple[float, float]]) -> list[Measured]:
    """An aggregated server: (TPOT ms, TTFT ms) by concurrency; its rate follows from Little's law."""
    of = experiment("ifb", Deployment(agg=group("agg", mapping)))
    return [Measured(of, Concurrency(c, 100), _closed(c, tpot, ttft)) for c, (tpot, ttft) in points.items()]


def e2e_rows(
    ctx: ServerGroup, gen: ServerGroup, points: dict[int, tuple[float, float]], *, repeat: int = 0
) -> list[Measured]:
    of = experiment("e2e", Deployment(ctx=ctx, gen=gen))
    return [
        Measured(of, Concurrency(c, 100, repeat=repeat), _closed(c, tpot, ttft)) for c, (tpot, ttft) in points.items()
    ]


def _closed(concurrency: int, tpot_ms: float, ttft_ms: float) -> Measurement:
    osl = WORKLOAD.osl
    req_s = concurrency / (ttft_ms + (osl - 1) * tpot_ms) * 1000
    return measurement(req_s=req_s, osl=osl, ttft_ms=ttft_ms, tpot_ms=tpot_ms)
