"""Sweep files: what they mean, and that every mistake is named with its line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratematch.errors import SweepError
from ratematch.plan.experiment import from_json, to_json
from ratematch.plan.load import Concurrency, Rate, Trace
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.sweep import Sweep
from ratematch.plan.workload import Spread
from tests.support.sweeptext import GOOD, expanded, parse


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(SweepError) as caught:
        parse(text, *overrides)
    return [str(problem) for problem in caught.value.problems]


def only_problem(text: str, *overrides: str) -> str:
    result = problems(text, *overrides)
    assert len(result) == 1, result
    return result[0]


def test_axes_are_multiplied_and_context_is_measured_at_one_token() -> None:
    experiments = expanded(parse(GOOD)).experiments
    assert [(e.stage, e.deployment.label) for e in experiments] == [
        ("ctx", "ctx1xDEP4-mtp0"),
        ("gen", "gen1xTEP4-mtp0"),
        ("gen", "gen1xTEP4-mtp1"),
        ("gen", "gen1xDEP8-mtp0"),
        ("gen", "gen1xDEP8-mtp1"),
    ]
    assert experiments[0].workload.osl == 1
    assert experiments[1].workload.osl == 64


def test_limits_follow_workload_load_and_mtp() -> None:
    ctx, tep, tep_mtp, dep, _ = expanded(parse(GOOD)).experiments
    assert ctx.deployment.ctx and ctx.deployment.ctx.max_num_tokens == 8192
    assert ctx.deployment.ctx.max_batch_size == 8
    assert tep.deployment.gen and tep.deployment.gen.max_batch_size == 64
    assert tep_mtp.deployment.gen and tep_mtp.deployment.gen.max_num_tokens == 128
    assert dep.deployment.gen and dep.deployment.gen.max_batch_size == 8, "64 in flight over 8 attention-DP ranks"


def test_a_longer_ladder_keeps_the_experiment() -> None:
    short = expanded(parse(GOOD, "gen.axes.max_batch_size=64")).experiments[1]
    longer = expanded(parse(GOOD, "gen.axes.max_batch_size=64", "gen.loads.concurrency=[1, 2, 64]")).experiments[1]
    assert short.id == longer.id
    assert set(short.loads) < set(longer.loads)


def test_what_decides_a_figure_decides_the_id() -> None:
    ids = {expanded(parse(GOOD)).experiments[1].id}
    for override in (
        "workloads.0.isl=2048",
        "gen.options.stream_interval=10",
        "engine.version=main",
        "model=deepseek-v3",
    ):
        ids.add(expanded(parse(GOOD, override)).experiments[1].id)
    assert len(ids) >= 4


def test_text_that_is_read_as_a_number_is_said_to_need_quotes() -> None:
    with pytest.raises(SweepError) as refused:
        parse(GOOD, "cluster=5")
    assert "must be text, not 5" in str(refused.value) and "'cluster=\"5\"'" in str(refused.value)
    for spelled in ("engine.version=1.4", 'engine.version="1.4"'):
        assert parse(GOOD, spelled).engine.version == "1.4", "a version is taken as it is written"


def test_numeric_axes_and_ep_equal_to_tp() -> None:
    text = GOOD.replace("mapping: [TEP4, DEP8], mtp: [0, 1]", "tp: [4, 8], ep: tp, attention_dp: [false, true]")
    mappings = [e.deployment.gen.mapping for e in expanded(parse(text)).experiments if e.deployment.gen]
    assert mappings == [
        Parallelism(tp=4, ep=4),
        Parallelism(tp=4, ep=4, attention_dp=True),
        Parallelism(tp=8, ep=8),
        Parallelism(tp=8, ep=8, attention_dp=True),
    ]


def test_engine_options_as_axes_lie_over_the_fixed_ones() -> None:
    text = GOOD.replace(
        "mtp: [0, 1]}", "options.kv_cache_config.dtype: [fp8, auto]}\n  options: {stream_interval: 4}"
    )
    options = [e.deployment.gen.options for e in expanded(parse(text)).experiments if e.deployment.gen][:2]
    assert options == [
        {"stream_interval": 4, "kv_cache_config": {"dtype": "fp8"}},
        {"stream_interval": 4, "kv_cache_config": {"dtype": "auto"}},
    ]


BALANCE = "options.attention_dp_config.enable_balance"
BALANCED = GOOD.replace("mtp: [0, 1]}", BALANCE + ": [false, true]}")


def test_balance_is_an_axis_of_attention_dp_alone() -> None:
    """With other parallelism both values are one server, which is measured once."""
    expansion = expanded(parse(BALANCED))
    gens = [e.deployment for e in expansion.experiments if e.deployment.gen]
    assert [deployment.label for deployment in gens] == [
        "gen1xTEP4+enable_balance=False-mtp0",
        "gen1xDEP8+enable_balance=False-mtp0",
        "gen1xDEP8+enable_balance=True-mtp0",
    ]
    assert [(d.combination, "no attention-DP ranks" in d.reason) for d in expansion.dropped] == [
        (f"TEP4 {BALANCE}=True", True)
    ]
    whole = GOOD.replace(
        "mtp: [0, 1]}",
        "options.attention_dp_config: [{enable_balance: false}, {enable_balance: true, timeout_iters: 60}]}",
    )
    assert len([e for e in expanded(parse(whole)).experiments if e.deployment.gen]) == 3, "the map as an axis too"


def test_balance_for_all_thins_nothing_out() -> None:
    """A fixed option is not a question: servers that it changes nothing for run with it."""
    text = GOOD.replace("mtp: [0, 1]}", "mtp: [0, 1]}\n  options: {attention_dp_config: {enable_balance: true}}")
    assert len(expanded(parse(text)).experiments) == len(expanded(parse(GOOD)).experiments)


@pytest.mark.parametrize(
    "axis",
    [
        f"{BALANCE}: true",
        "options.attention_dp_config: [{enable_balance: true}, {enable_balance: true, timeout_iters: 9}]",
    ],
)
def test_balance_as_an_axis_without_off_is_for_all_too(axis: str) -> None:
    text = GOOD.replace("mtp: [0, 1]}", axis + "}")
    expansion = expanded(parse(text))
    assert {e.deployment.gen.mapping.label for e in expansion.experiments if e.deployment.gen} == {"TEP4", "DEP8"}
    assert expansion.dropped == ()


def test_rates_and_repeats_become_loads() -> None:
    text = GOOD.replace("concurrency: [1, 64]", "req_s: 2, seconds: 30, repeats: 2, min_requests: 4")
    loads = expanded(parse(text)).experiments[1].loads
    assert loads == (Rate(2.0, 60, "poisson", 1, 0), Rate(2.0, 60, "poisson", 1, 1))


def test_requests_grow_with_concurrency() -> None:
    text = GOOD.replace("concurrency: [1, 64]", "concurrency: [1, 64], requests_per_slot: 3, warmup_per_slot: 0.5")
    assert expanded(parse(text)).experiments[1].loads == (Concurrency(1, 16, 1, 0), Concurrency(64, 192, 32, 0))


def test_exclude_and_only() -> None:
    excluded = expanded(parse(GOOD + "  exclude: [{mapping: DEP8, mtp: 1}]\n"))
    assert "gen1xDEP8-mtp1" not in [e.deployment.label for e in excluded.experiments]
    assert [d.combination for d in excluded.dropped] == ["DEP8 mtp=1"]
    chosen = expanded(parse(GOOD + "  only: [{gpus: 8}]\n"))
    assert [e.deployment.label for e in chosen.experiments if e.stage == "gen"] == [
        "gen1xDEP8-mtp0",
        "gen1xDEP8-mtp1",
    ]


def test_role_aliases() -> None:
    text = GOOD.replace("\nctx:", "\nprefill:").replace("\ngen:", "\ndecode:")
    assert expanded(parse(text)).experiments == expanded(parse(GOOD)).experiments


def test_prefill_and_ctx_together_are_refused() -> None:
    both = GOOD + "prefill:\n  axes: {tp: 4}\n  loads: {concurrency: 1}\n"
    assert "'prefill' means 'ctx'" in only_problem(both)


def test_a_value_some_combinations_can_use_thins_the_product() -> None:
    text = GOOD.replace("mapping: [TEP4, DEP8], mtp: [0, 1]", "tp: [4, 8], ep: [4, 8]")
    dropped = expanded(parse(text)).dropped
    assert [d.combination for d in dropped] == ["TP4EP8"]
    assert "ep=8 does not divide tp=4" in dropped[0].reason


@pytest.mark.parametrize(
    ("change", "line", "what", "fix"),
    [
        (("about: shows", "sede: 1\nabout: shows"), 2, "unknown key 'sede'", "valid keys: name, about"),
        (("ctx:\n  axes", "ctx:\n  axis: {tp: 4}\n  axes"), 8, "unknown key 'axis'", "axes, loads"),
        (("concurrency: [1, 4]", "concurency: [1, 4]"), 9, "unknown key 'concurency'", "concurrency"),
        (("mapping: DEP4", "mapping: XEP4"), 8, "'XEP4' is no mapping", "TEP8"),
        (("mapping: DEP4", "tp: []"), 8, "axis is empty", "at least one value"),
        (("mapping: DEP4", "tp: 4, ep: 3"), 8, "ep=3 does not divide tp=4", "valid ep are 1, 2, 4"),
        (("mapping: DEP4", "tp: 3"), 8, "tp=3 does not divide the 128 attention heads", "valid tp are 1, 2, 4"),
        (("mapping: DEP4", "tp: 6"), 8, "6", "valid tp"),
        (("mapping: DEP4", "tp: -4"), 8, "whole number >= 1, not -4", ""),
        (("mapping: DEP4", "tp: 128"), 8, "128 GPUs, and cluster rack has 18 nodes x 4 = 72", ""),
        (("mapping: DEP4", "colour: red"), 8, "unknown axis 'colour'", "options.<engine option>"),
        (("isl: 1024", "isl: 0"), 6, "greater than 0", "0"),
        (("isl: 1024", "isl: many"), 6, "integer", "'many'"),
        (("cluster: rack", "cluster: moon"), 4, "no cluster profile 'moon'", "known: rack"),
        (("model: deepseek-r1", "model: gpt-9"), 3, "gpt-9", "deepseek-r1"),
        (("[1, 64]", "[]"), 12, "is empty", "at least one value"),
        (("name: demo", "name: demo\nname: twice"), 2, "'name' is given twice", ""),
        (("name: demo", "name: a/b"), 1, "'a/b'", "letters"),
        (
            ("cluster: rack", "cluster: rack\nengine: {version: '0.9'}"),
            5,
            "unknown version '0.9'",
            "known: 1.2, main",
        ),
        (("workloads:", "e2e: {router: magic}\nworkloads:"), 5, "round_robin", "'magic'"),
    ],
)
def test_a_mistake_is_named_with_its_line(change: tuple[str, str], line: int, what: str, fix: str) -> None:
    message = only_problem(GOOD.replace(*change, 1))
    assert message.startswith(f"demo.yaml:{line}: "), message
    assert what in message
    assert fix in message


@pytest.mark.parametrize("version", ["1.2", "1.2.1", "v1.2.0", "1.2.0rc4.post1"])
def test_a_version_of_a_known_line_is_known(version: str) -> None:
    assert (
        parse(GOOD.replace("workloads:", f'engine: {{version: "{version}"}}\nworkloads:', 1)).engine.version
        == version
    )


@pytest.mark.parametrize("version", ["1.1.0", "1.2.x!", "later"])
def test_other_versions_are_not_guessed_at(version: str) -> None:
    assert "known: 1.2, main" in only_problem(
        GOOD.replace("workloads:", f'engine: {{version: "{version}"}}\nworkloads:', 1)
    )


def test_routers_by_name_or_with_arguments() -> None:
    plain = parse(GOOD.replace("workloads:", "e2e: {router: load_balancing}\nworkloads:", 1)).e2e
    reported = "e2e: {router: {type: kv_cache_aware, args: {use_tokens: true}}}"
    full = parse(GOOD.replace("workloads:", f"{reported}\nworkloads:", 1)).e2e
    assert plain is not None and (plain.router, plain.router_args) == ("load_balancing", {})
    assert full is not None and (full.router, full.router_args) == ("kv_cache_aware", {"use_tokens": True})


def test_unchecked_leaves_values_plain_and_is_remembered() -> None:
    text = (
        GOOD.rstrip("\n")
        + """
  options:
    newer: !unchecked 5
    quoted: !unchecked "5"
    moe_config: {fresh: !unchecked {a: [1, 2]}, backend: CUTLASS}
    lists: !unchecked [true, null]
"""
    )
    plan = parse(text).stages[-1]
    moe = {"fresh": {"a": [1, 2]}, "backend": "CUTLASS"}
    assert plan.options == {"newer": 5, "quoted": "5", "moe_config": moe, "lists": [True, None]}
    assert plan.unchecked == ("newer", "quoted", "moe_config.fresh", "lists")
    groups = [e.deployment.groups[0] for e in expanded(parse(text)).experiments if e.stage == plan.stage]
    assert groups and all(group.unchecked == plan.unchecked for group in groups)
    whole = parse(GOOD.rstrip("\n") + "\n  options: !unchecked {a: 1, b: 2}\n").stages[-1]
    assert whole.unchecked == ("a", "b")


def test_unchecked_on_an_axis_and_in_an_override() -> None:
    stage = parse(GOOD).stages[-1].stage
    swept = parse(GOOD, f"{stage}.axes={{mapping: TEP4, options.newer.x: !unchecked [1, 2]}}").stages[-1]
    assert swept.unchecked == ("newer.x",) and swept.axes["options.newer.x"] == (1, 2)
    later = parse(GOOD, f"{stage}.options.newer=!unchecked 7").stages[-1]
    assert later.unchecked == ("newer",) and later.options["newer"] == 7


def test_mtp_without_mtp_layers_is_refused_unless_a_draft_model_is_given() -> None:
    dense = GOOD.replace("deepseek-r1", "llama-3.3-70b").replace("mapping: DEP4", "tp: 4")
    dense = dense.replace("mapping: [TEP4, DEP8], mtp: [0, 1]", "tp: 4, mtp: 1")
    assert "mtp=1 needs MTP layers" in only_problem(dense)
    drafted = dense + "  options: {speculative_config: {decoding_type: Eagle3}}\n"
    assert expanded(parse(drafted)).experiments


def test_all_mistakes_at_once_in_the_order_of_the_file() -> None:
    text = GOOD.replace("about:", "abuot:").replace("isl: 1024", "isl: -1").replace("cluster: rack", "cluster: moon")
    result = problems(text)
    lines = [int(problem.split(":")[1]) for problem in result]
    assert {2, 4, 6} <= set(lines)
    assert lines == sorted(lines)


def test_syntax_errors_and_wrong_shapes_name_a_line() -> None:
    assert problems("name: [1, 2")[0].startswith("demo.yaml:")
    assert "map of keys" in problems("- 1\n- 2\n")[0]
    assert "empty" in problems("")[0]


def test_tags_that_would_run_code_are_refused() -> None:
    with pytest.raises((SweepError, Exception)) as caught:
        parse("name: !!python/object/apply:os.system ['true']\n")
    assert isinstance(caught.value, SweepError)


@pytest.mark.parametrize(
    ("override", "said"),
    [("nonsense", "key.path=value"), ("workloads.7.isl=1", "workloads"), ("gen.axes.colour=1", "unknown axis")],
)
def test_bad_overrides_are_reported(override: str, said: str) -> None:
    assert said in " ".join(problems(GOOD, override))


def test_overrides_lie_over_the_file() -> None:
    sweep = parse(GOOD, "workloads.0.isl=4096", "constraints.ttft_ms=500", "gen.axes.mtp=[2]")
    assert sweep.workloads[0].isl == 4096
    assert sweep.constraints.ttft_ms == 500
    assert sweep.stages[1].axes["mtp"] == (2,)


NAMED = """\
name: recipe
about: one deployment as somebody wrote it
model: deepseek-r1
cluster: rack
workloads: [{isl: 1024, osl: 64}]
deployments:
  - ctx: {mapping: DEP4, instances: 2, config: {tensor_parallel_size: 4}}
    gen: {mapping: TEP8, mtp: 1, environment: {TRTLLM_ENABLE_PDL: "1"}}
    loads: {concurrency: [4, 8]}
  - agg: {mapping: DEP4}
    loads: {concurrency: 16}
"""


def test_deployments_written_out_run_as_they_stand() -> None:
    pair, agg = expanded(parse(NAMED)).experiments
    assert (pair.stage, pair.deployment.label) == ("e2e", "ctx2xDEP4-gen1xTEP8-mtp1")
    assert pair.deployment.ctx and pair.deployment.ctx.config == {"tensor_parallel_size": 4}
    assert pair.deployment.gen and pair.deployment.gen.environment == {"TRTLLM_ENABLE_PDL": "1"}
    assert [load.concurrency for load in pair.loads if isinstance(load, Concurrency)] == [4, 8]
    assert (agg.stage, agg.deployment.label) == ("ifb", "agg1xDEP4-mtp0")


SERVERS = "{mapping: DEP4, max_batch_size: 16, max_num_tokens: 2048}"


def written_out(*loads: str, stages: str = "") -> Sweep:
    head = NAMED[: NAMED.index("deployments:")]
    return parse(
        head + stages + "deployments:\n" + "".join(f"  - {{agg: {SERVERS}, loads: {each}}}\n" for each in loads)
    )


@pytest.mark.parametrize(
    ("loads", "labels"),
    [
        (("{concurrency: [4, 8]}", "{concurrency: 16}"), ["c4-n32-w1", "c8-n64-w2", "c16-n128-w4"]),
        (("{concurrency: 16}", "{concurrency: [8, 16, 4]}"), ["c16-n128-w4", "c8-n64-w2", "c4-n32-w1"]),
        (("{concurrency: 4}", "{req_s: 2, seconds: 30}"), ["c4-n32-w1", "poisson2-n60-w1"]),
        (
            ("{req_s: 2, seconds: 30}", "{concurrency: 4}", "{req_s: [2, 3], seconds: 30, arrival: constant}"),
            ["poisson2-n60-w1", "c4-n32-w1", "constant2-n60-w1", "constant3-n90-w1"],
        ),
        (("{concurrency: 4}", "{concurrency: 4, repeats: 2}"), ["c4-n32-w1", "c4-n32-w1-r1"]),
        (("{concurrency: 4}", "{concurrency: 4}", "{concurrency: 4}"), ["c4-n32-w1"]),
        (("{concurrency: 4, repeats: 2}", "{concurrency: 4}"), ["c4-n32-w1", "c4-n32-w1-r1"]),
    ],
)
def test_deployments_that_differ_only_in_loads_are_one_experiment_with_all(
    loads: tuple[str, ...], labels: list[str]
) -> None:
    (result,) = expanded(written_out(*loads)).experiments
    assert [load.label for load in result.loads] == labels
    alone = [expanded(written_out(each)).experiments[0].id for each in loads]
    assert set(alone) == {result.id}, "the id is that of each alone"


def test_a_deployment_written_out_joins_the_stage_that_measures_it() -> None:
    axes = "{mapping: [DEP4, TEP4], max_batch_size: [16], max_num_tokens: [2048]}"
    stage = f"ifb:\n  axes: {axes}\n  loads: {{concurrency: [1, 4]}}\n"
    first, second = expanded(written_out("{concurrency: [4, 8]}", stages=stage)).experiments
    assert [load.label for load in first.loads] == ["c1-n16-w1", "c4-n32-w1", "c8-n64-w2"]
    assert (second.deployment.label, len(second.loads)) == ("agg1xTEP4-mtp0", 2)


def test_deployments_of_other_servers_or_workloads_stay_apart() -> None:
    text = NAMED.replace("  - agg: {mapping: DEP4}", "  - agg: {mapping: DEP4, max_batch_size: 8}")
    text += "  - agg: {mapping: DEP4}\n    loads: {concurrency: 16}\n"
    text += "  - agg: {mapping: DEP4}\n    workload: {isl: 512, osl: 64}\n    loads: {concurrency: 16}\n"
    result = expanded(parse(text)).experiments
    assert len({each.id for each in result}) == len(result) == 4
    assert [len(each.loads) for each in result] == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "line", "what"),
    [
        (("mapping: TEP8", "mapping: TEP7"), 8, "7 GPUs, which are not whole nodes of 4"),
        (("mapping: TEP8", "mapping: eight"), 8, "'eight' is no mapping"),
        (("  - agg:", "  - gen:"), 10, "give ctx and gen, or agg alone"),
        (("instances: 2", "instances: 40"), 7, "needs 168 GPUs, and cluster rack has 72"),
        (("concurrency: 16", "arrival: poisson"), 11, "names no load"),
        (("mtp: 1", "mpt: 1"), 8, "unknown key 'mpt'"),
    ],
)
def test_mistakes_in_a_written_deployment_are_named(change: tuple[str, str], line: int, what: str) -> None:
    message = problems(NAMED.replace(*change, 1))[0]
    assert message.startswith(f"demo.yaml:{line}: "), message
    assert what in message


def test_loads_of_every_kind_and_workloads_of_every_shape() -> None:
    text = GOOD.replace(
        "  - {isl: 1024, osl: 64}\n",
        '  - {isl: 4096, osl: 64, isl_spread: "lognormal:1000,800", osl_ratio: 0.5,\n'
        "     prefix_share: 0.25, file: t.jsonl}\n",
    ).replace(
        "  loads: {concurrency: [1, 64]}\n",
        "  loads: {concurrency: 4, duration_s: 30, stagger_s: 2, target_ci: 0.02,\n"
        "          req_s: 2, ramp_to: 6, seconds: 10, arrival: gamma, burstiness: 0.5,\n"
        "          max_in_flight: 64, replay: [1, 2], num_requests: 100}\n",
    )
    sweep = parse(text)
    workload = sweep.workloads[0]
    assert (workload.isl_spread, workload.file) == (Spread("lognormal", 1000, 800), "t.jsonl")
    gen = next(e for e in expanded(sweep).experiments if e.stage == "gen")
    assert gen.loads == (
        Concurrency(4, 32, 1, seconds=30, stagger_s=2, target_ci=0.02),
        Rate(2, 40, "gamma", 1, burstiness=0.5, end_req_s=6, max_in_flight=64, target_ci=0.02),
        Trace(100, 1, 1, max_in_flight=64),
        Trace(100, 2, 1, max_in_flight=64),
    )
    assert from_json(to_json(gen)) == gen
    ctx = next(e for e in expanded(sweep).experiments if e.stage == "ctx")
    assert (ctx.workload.osl, ctx.workload.osl_ratio, ctx.workload.isl_spread) == (1, 1.0, workload.isl_spread)


def test_an_experiment_of_a_plain_workload_keeps_the_id_it_had() -> None:
    """Ids are written into results folders: new keys of workloads and loads must not change those of old sweeps."""
    gen = next(e for e in expanded(parse(GOOD)).experiments if e.stage == "gen")
    assert gen.id == "9549713a84"
    assert replace(gen, workload=replace(gen.workload, prefix_share=0.5)).id != gen.id
    assert replace(gen, step_times="kernels").id != gen.id


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("replay: 1", "says no number of requests"),
        ("replay: 1, num_requests: 4", "names no file"),
        ("req_s: 1, arrival: uniform", "arrival"),
        ("concurrency: 1, target_ci: 2", "target_ci"),
    ],
)
def test_loads_that_cannot_be(key: str, says: str) -> None:
    reported = problems(GOOD.replace("loads: {concurrency: [1, 64]}", f"loads: {{{key}}}"))
    assert any(says in problem and "demo.yaml:1" in problem for problem in reported), reported


def test_a_spread_of_another_form_is_reported_with_its_line() -> None:
    reported = problems(GOOD.replace("{isl: 1024, osl: 64}", "{isl: 1024, osl: 64, isl_spread: flat}"))
    assert any("demo.yaml:6" in problem and "normal:MEAN,STD" in problem for problem in reported), reported


def test_tok_s_user_to_choose_at_are_read_ascending_and_once() -> None:
    sweep = parse(GOOD + "e2e: {choose_at: [100, 20, 20.0]}\n")
    assert sweep.e2e is not None
    assert sweep.e2e.choose_at == (20.0, 100.0)
    with pytest.raises(SweepError, match="choose_at"):
        parse(GOOD + "e2e: {choose_at: [-1]}\n")


@pytest.mark.parametrize("given", ["engine.version=1.2", "engine={name: trtllm-serve, version: 1.2}"])
def test_a_version_that_looks_like_a_number_is_taken_as_it_is_written(given: str) -> None:
    assert parse(GOOD, given).engine.version == "1.2"
    assert parse(GOOD.replace("workloads:", "engine: {version: 1.2}\nworkloads:", 1)).engine.version == "1.2"
