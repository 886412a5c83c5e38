"""How many drafts are accepted: published curves, and what a sweep forces its servers to."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from operator import mul

import pytest

from ratematch.engines import ENGINES
from ratematch.engines.dynamo.engineside import why_not_forced as dynamo
from ratematch.engines.triton import ENGINE as TRITON
from ratematch.errors import SweepError
from ratematch.inputs.acceptance import curves_of
from ratematch.inputs.catalog import load_model, model_names
from ratematch.plan.acceptance import AcceptanceCurve, ForcedAcceptance, force, parse_forced
from ratematch.plan.experiment import EngineRef, from_json, to_json
from ratematch.plan.sweep import Sweep
from ratematch.plan.workload import Workload
from tests.support import sweeptext
from tests.support.sweeptext import GOOD, expanded

FORCING = GOOD.replace("{isl: 1024, osl: 64}", "{isl: 1024, osl: 64, forced_acceptance: {1: 1.9}}")


def parse(text: str, *overrides: str) -> Sweep:
    return sweeptext.parse(text, "engine.version=1.3.0rc15", *overrides, engines=ENGINES)


def problem(text: str, *overrides: str) -> str:
    with pytest.raises(SweepError) as caught:
        parse(text, *overrides)
    (only,) = caught.value.problems
    return str(only)


CURVES = [(name, curve) for name in model_names() for curve in curves_of(name)]


@pytest.mark.parametrize(("model", "curve"), CURVES, ids=[f"{model}-{curve.name}" for model, curve in CURVES])
def test_published_curves_say_where_they_are_from_and_how_far_text_moves_them(
    model: str, curve: AcceptanceCurve
) -> None:
    assert curve.source and curve.dataset
    assert all(1 < tokens <= drafts + 1 for drafts, tokens in enumerate(curve.tokens, 1))
    others = [other.tokens for other in curves_of(model)]
    ends = tuple((min(at), max(at)) for at in zip(*others, strict=True))
    assert curve.between == ends, "lowest and highest of all texts"
    assert load_model(model).mtp_layers, "nobody drafts otherwise"
    # Steps as long as published, as far as further drafts add anything.
    tokens = [1 + sum(accumulate(curve.rates[:drafts], mul)) for drafts in range(1, len(curve.rates) + 1)]
    assert tokens[:3] == pytest.approx(curve.tokens[:3], abs=0.02)


def test_each_model_has_one_usual_and_at_most_one_golden_curve() -> None:
    for model in {model for model, _ in CURVES}:
        assert sum(curve.usual for curve in curves_of(model)) == 1
        assert sum(curve.golden for curve in curves_of(model)) <= 1
        usual = next(curve for curve in curves_of(model) if curve.usual)
        assert load_model(model).mtp_acceptance == usual.rates


def test_acceptance_by_position_is_what_each_draft_adds() -> None:
    curve = AcceptanceCurve("some", "text", (1.8, 2.28, 2.56), (), "nobody")
    assert curve.rates == (0.8, 0.6, pytest.approx(0.5833, abs=1e-4))
    noisy = replace(curve, tokens=(1.5, 2.1, 2.05))  # a draft cannot be accepted more often than the one before it
    assert noisy.rates == (0.5,)


@pytest.mark.parametrize("text", ["golden 1:1.79 2:2.27", "3:2.5", "1:1.9 3:3.25", "speed-bench-coding 8:3.1"])
def test_what_is_forced_is_spelt_and_read_back(text: str) -> None:
    assert str(parse_forced(text)) == text
    workload = Workload(1024, 64, forced_acceptance=text)
    assert workload.forced == parse_forced(text) and workload.label.startswith("1024/64~")


@pytest.mark.parametrize("text", ["golden", "0:1.5", "1:2.5", "1:1", "1:x", "1:1.5;2:2"])
def test_a_wrong_spelling_is_no_acceptance(text: str) -> None:
    with pytest.raises(ValueError):
        parse_forced(text)


def test_golden_is_the_published_curve_and_other_names_are_told() -> None:
    curves = curves_of("deepseek-v4-pro")
    assert force("golden", curves, "deepseek-v4-pro").at(3) == 2.49
    assert force("speed-bench-coding-no-thinking", curves, "deepseek-v4-pro").at(1) == 1.92
    with pytest.raises(ValueError, match=r"published for deepseek-r1: srt-slurm-1k, .*; or write tokens a step"):
        force("golden", curves_of("deepseek-r1"), "deepseek-r1")
    with pytest.raises(ValueError, match="nothing is published for qwen3-8b"):
        force("golden", (), "qwen3-8b")


def test_forced_figures_are_of_a_workload_of_their_own() -> None:
    plain, forced = parse(GOOD), parse(FORCING)
    assert [workload.label for workload in forced.workloads] == ["1024/64~forced1x1.9"]
    ctx, gen = (expanded(forced).experiments[index] for index in (0, 2))
    assert ctx.id == expanded(plain).experiments[0].id, "a context server is measured at one token: nothing is forced"
    assert gen.id != expanded(plain).experiments[2].id
    assert from_json(to_json(gen)) == gen
    assert gen.deployment.gen is not None
    assert gen.forced_tokens(gen.deployment.gen) == 1.9
    assert gen.forced_tokens(replace(gen.deployment.gen, mtp=0)) is None
    assert "forced_acceptance" not in to_json(expanded(plain).experiments[2])["workload"]


def test_a_written_out_deployment_forces_in_its_own_workload() -> None:
    own = "deployments=[{agg: {mapping: TEP8, mtp: 3}, loads: {concurrency: 4}, workload: WORKLOAD}]"
    workload = "{isl: 64, osl: 8, forced_acceptance: srt-slurm-8k}"
    sweep = parse(GOOD, own.replace("WORKLOAD", workload))
    assert expanded(sweep).experiments[-1].workload.forced == ForcedAcceptance(
        "srt-slurm-8k", {1: 1.84, 2: 2.38, 3: 2.76}
    )
    assert all(not workload.forced_acceptance for workload in sweep.workloads)


@pytest.mark.parametrize(
    ("given", "overrides", "what"),
    [
        ("{2: 2.2}", (), "has no value for mtp 1; it has 2"),
        ("{1: 2.1}", (), "2.1 tokens a step with mtp 1: must be more than 1 and at most 2"),
        ("golden", (), "no acceptance 'golden' is known; published for deepseek-r1: srt-slurm-1k"),
        ("{1: 1.9}", ("gen.axes.mtp=0",), "no server drafts"),
        (
            "{1: 1.9}",
            ("engine.version=1.3.0rc14",),
            "1.9 tokens a step are 0.9 accepted drafts, and TensorRT-LLM 1.3",
        ),
        ("{1: 1.9}", ("engine.version=1.2.1",), "name a release from 1.3.0rc15 on"),
        ("{1: 1.9}", ("engine.version='1.3'",), "whole numbers of them only, as far as is known"),
    ],
)
def test_what_cannot_be_forced_is_one_line_with_its_place(given: str, overrides: tuple[str, ...], what: str) -> None:
    found = problem(FORCING.replace("{1: 1.9}", given), *overrides)
    assert found.startswith("demo.yaml:6: ") and what in found, found


def test_whole_drafts_are_forced_by_every_release_and_fractions_by_later_ones() -> None:
    trtllm = ENGINES["trtllm-serve"].why_not_forced
    for version in ("1.2", "1.2.1", "1.3.0rc3", "1.3.0rc15", "1.4", "main"):
        assert trtllm(EngineRef("trtllm-serve", version), 3.0) is None
    for version in ("1.3.0rc15", "1.3.0rc27", "1.4", "main"):
        assert trtllm(EngineRef("trtllm-serve", version), 2.49) is None
    for version in ("1.2", "1.2.0", "1.3", "1.3.0rc14"):
        assert trtllm(EngineRef("trtllm-serve", version), 2.49) is not None
    assert ENGINES["vllm"].why_not_forced(EngineRef("vllm", "0.24"), 2.49) is None
    assert dynamo(EngineRef("dynamo", "1.6", "trtllm", "1.3.0rc14"), 2.49) is not None
    assert dynamo(EngineRef("dynamo", "1.6", "trtllm", "1.3.0rc29"), 2.49) is None
    assert dynamo(EngineRef("dynamo", "1.6", "vllm", "0.24"), 2.49) is None
    assert "nothing that forces" in (TRITON.facts.why_not_forced(EngineRef("triton", "1.2"), 2.0) or "")
