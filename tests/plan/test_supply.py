"""``gen.mode: gen_only``: context servers that feed the generation server while it is measured."""

from __future__ import annotations

import pytest

from ratematch.engines import ENGINES, find_engine
from ratematch.errors import SweepError
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.budget import minutes_of
from ratematch.plan.expansion import Expansion, expand
from ratematch.plan.load import Concurrency
from ratematch.plan.sweep import Sweep
from ratematch.plan.sweepfile import parse_sweep
from tests.support.invented import LAPTOP

HEAD = """\
name: fed
about: gen fed by real context servers
model: deepseek-r1
cluster: laptop
workloads: [{isl: 256, osl: 16}]
"""
CTX = "ctx: {axes: {mapping: [TEP4, DEP4], mtp: [0, 1]}, options: {cache_transceiver_config: {backend: UCX}}, loads: {concurrency: 1}}\n"  # noqa: E501


def gen(extra: str = "", loads: str = "concurrency: [4, 8], requests_per_slot: 2, min_requests: 1") -> str:
    return f"gen: {{mode: gen_only, axes: {{mapping: DEP8, mtp: [0, 1]}}, loads: {{{loads}}}{extra}}}\n"


def parse(text: str) -> Sweep:
    return parse_sweep(
        text,
        "fed.yaml",
        find_model=load_model,
        find_cluster=lambda name: LAPTOP,
        find_gpu=load_gpu,
        engines=ENGINES,
    )


def expanded(text: str) -> tuple[Sweep, Expansion]:
    sweep = parse(text)
    return sweep, expand(sweep, find_engine("trtllm-serve").kv_settings)


def test_by_default_one_of_the_first_ctx_mapping_feeds_it_with_gens_own_mtp() -> None:
    sweep, expansion = expanded(HEAD + CTX + gen())
    fed = [each for each in expansion.experiments if each.stage == "gen"]
    assert [each.mode for each in fed] == ["gen_only", "gen_only"]
    for each, mtp in zip(fed, (0, 1), strict=True):
        ctx = each.deployment.ctx
        assert ctx is not None and (ctx.mapping.label, ctx.instances, ctx.mtp) == ("TEP4", 1, mtp)
        assert ctx.options == {"cache_transceiver_config": {"backend": "UCX"}}
        assert each.deployment.gpus == 12, "supply counts in GPU-hours"
        assert each.loads == (Concurrency(4, 12), Concurrency(8, 24)), "three waves, the first of them the fill"
        assert minutes_of(sweep, each) == 2 * LAPTOP.start_minutes + 2 * LAPTOP.load_minutes


def test_a_named_supply_needs_no_ctx_stage() -> None:
    _, expansion = expanded(HEAD + gen(", supply: {mapping: DEP4, instances: 3}"))
    ctx = expansion.experiments[0].deployment.ctx
    assert ctx is not None and (ctx.mapping.label, ctx.instances) == ("DEP4", 3)


def test_no_context_stays_the_default() -> None:
    _, expansion = expanded(HEAD + gen().replace("mode: gen_only, ", ""))
    assert {each.mode for each in expansion.experiments} == {"gen_only_no_context"}


def test_a_supply_that_does_not_fit_beside_gen_is_dropped_with_the_sum() -> None:
    _, expansion = expanded(HEAD + "budget: {max_gpus: 10}\n" + gen(", supply: {mapping: DEP4}"))
    assert expansion.experiments == ()
    assert "needs 12 GPUs with the context servers that supply it, and 10 are allowed" in expansion.dropped[0].reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (gen(), "gen_only needs context servers"),
        (gen(", supply: {mapping: XEP4}"), "XEP4"),
        (gen(", supply: {mapping: DEP3}"), "gen.supply"),
        (gen(", supply: {mapping: DEP4}", "req_s: 1"), "fills a batch"),
        (gen(", supply: {mapping: DEP4}").replace("mode: gen_only, ", ""), "supply is for mode gen_only"),
        (CTX.replace("ctx: {", "ctx: {mode: gen_only, ") + gen(), "mode"),
    ],
    ids=["none", "no label", "unrunnable", "open loop", "without mode", "ctx has no mode"],
)
def test_mistakes_are_reported(text: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        parse(HEAD + text)


@pytest.mark.parametrize(("version", "batch"), [("1.2", 1), ("1.3.0rc9", 2), ("main", 1)])
def test_a_batch_filled_exactly_has_a_slot_more_where_the_release_needs_it(version: str, batch: int) -> None:
    """8 in flight over 8 attention-DP ranks; without a supply nothing waits for a full batch."""
    head = HEAD + f"engine: {{version: {version!r}}}\n" + CTX
    fed = [each.deployment.gen for each in expanded(head + gen())[1].experiments if each.stage == "gen"]
    assert [group.max_batch_size for group in fed if group] == [batch, batch]
    alone = expanded(head + gen().replace("mode: gen_only, ", ""))[1].experiments
    assert {each.deployment.gen.max_batch_size for each in alone if each.deployment.gen} == {1}
