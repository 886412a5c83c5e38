"""Batch and token limits of a server where the sweep file leaves them open, each with its reason."""

from __future__ import annotations

from dataclasses import replace

from ratematch.plan.deployment import ServerGroup
from ratematch.plan.setting import Setting
from ratematch.plan.workload import Workload

LEAST_PREFILL_TOKENS = 8192
"""Tokens a step of a server that prefills: the engine's own default, where prefill is compute-bound on all GPUs."""


CHUNK_TOKENS = 2048
"""Prompt tokens in a step of an aggregated server with chunked prefill, beside a full batch of decodes: a quarter
of the engine's default, so that decoding goes on while a prompt is computed, and still compute-bound."""


def with_limits(group: ServerGroup, workload: Workload, in_flight: int, margin: int = 0) -> ServerGroup:
    """``group`` with the batch and token limits that were left open; ``in_flight``: requests one instance must hold.
    ``margin``: sequence slots more on each attention-DP rank where ``in_flight`` would take the last of all ranks.

    A limit among the options (or in a whole configuration) counts like one given as an axis: it is what the server
    will be started with.
    """
    batch, tokens = find_limits(group, workload, in_flight, margin)
    return replace(group, max_batch_size=batch.value, max_num_tokens=tokens.value)


def find_limits(group: ServerGroup, workload: Workload, in_flight: int, margin: int = 0) -> tuple[Setting, Setting]:
    """``max_batch_size`` and ``max_num_tokens``, per attention-DP rank as the engine counts them.

    Sequence slots are rounded up to a power of two, so that a slightly longer ladder does not make it a different
    deployment. gen: one step's tokens are slots x (MTP + 1) (242 of 330 public recipes). ctx and agg: whole prompts
    fit a step, 8,192 tokens at least; agg with chunked prefill: a chunk beside a full batch.
    """
    batch, tokens = _given(group, "max_batch_size"), _given(group, "max_num_tokens")
    if group.role == "ctx":
        tokens = tokens or _ctx_tokens(group, workload)
        return batch or _ctx_batch(tokens.value, workload), tokens
    batch = batch or _slots(group, in_flight, margin)
    return batch, tokens or (_gen_tokens if group.role == "gen" else _agg_tokens)(group, workload, batch.value)


def explain_limits(
    group: ServerGroup, workload: Workload, in_flight: int, margin: int = 0
) -> tuple[Setting, Setting]:
    """Like :func:`find_limits` for a ``group`` that is filled in already: a limit that is what would have been
    derived is taken to be derived."""
    bare = find_limits(replace(group, max_batch_size=None, max_num_tokens=None), workload, in_flight, margin)
    batch = bare[0] if bare[0].value == group.max_batch_size else _fixed("max_batch_size", group.max_batch_size)
    again = find_limits(replace(group, max_num_tokens=None), workload, in_flight, margin)[1]
    tokens = again if again.value == group.max_num_tokens else _fixed("max_num_tokens", group.max_num_tokens)
    return batch, tokens


def _fixed(key: str, value: int | None) -> Setting:
    return Setting(key, value, "given in the sweep file", given=True)


def _given(group: ServerGroup, key: str) -> Setting | None:
    among = (group.options if group.config is None else group.config).get(key)
    value = among if isinstance(among, int) and among > 0 else getattr(group, key)
    return None if value is None else _fixed(key, value)


def _slots(group: ServerGroup, in_flight: int, margin: int) -> Setting:
    ranks = group.mapping.dp_ranks
    slots = -(-in_flight // ranks)
    batch = 1 << max(0, slots - 1).bit_length()
    shared = f" / {ranks} attention-DP ranks = {slots} a rank" if ranks > 1 else ""
    why = f"the largest load keeps {in_flight} requests in flight on one instance{shared}; up to a power of two"
    if margin and ranks > 1 and in_flight == batch * ranks:
        why = f"{why}, + {margin}: a router that gives one rank more than its share must not wait for ever"
        batch += margin
    return Setting("max_batch_size", batch, why)


def _gen_tokens(group: ServerGroup, workload: Workload, batch: int) -> Setting:
    sum_ = f"max_batch_size {batch} x (MTP {group.mtp} + 1)"
    return Setting("max_num_tokens", batch * (group.mtp + 1), f"one decode step of a full batch: {sum_}")


def _agg_tokens(group: ServerGroup, workload: Workload, batch: int) -> Setting:
    if (group.options if group.config is None else group.config).get("enable_chunked_prefill") is True:
        sum_ = f"{CHUNK_TOKENS} + {batch} x (MTP {group.mtp} + 1)"
        why = f"chunked prefill: a piece of a prompt beside a full batch of decodes: {sum_}"
        return Setting("max_num_tokens", CHUNK_TOKENS + batch * (group.mtp + 1), why)
    whole = workload.isl + batch * (group.mtp + 1)
    sum_ = f"ISL {workload.isl} + {batch} x (MTP {group.mtp} + 1) = {whole}"
    why = f"a whole prompt beside a full batch of decodes: {sum_}"
    return Setting("max_num_tokens", max(LEAST_PREFILL_TOKENS, whole), _at_least(why, whole))


def _ctx_tokens(group: ServerGroup, workload: Workload) -> Setting:
    # The engine takes a prompt of exactly max_num_tokens (contract, section 3.8); the first decode step's tokens are
    # room.
    whole = -(-(workload.isl + group.mtp + 1) // 64) * 64
    why = f"a whole prompt and its first decode step: ISL {workload.isl} + MTP {group.mtp} + 1, in steps of 64"
    return Setting("max_num_tokens", max(LEAST_PREFILL_TOKENS, whole), _at_least(f"{why} = {whole}", whole))


def _ctx_batch(tokens: int, workload: Workload) -> Setting:
    return Setting(
        "max_batch_size",
        max(1, tokens // workload.isl),
        f"whole prompts in one step: max_num_tokens {tokens} / ISL {workload.isl}, rounded down, at least 1",
    )


def _at_least(why: str, value: int) -> str:
    return why if value >= LEAST_PREFILL_TOKENS else f"{why}; at least {LEAST_PREFILL_TOKENS}"
