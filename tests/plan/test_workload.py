"""Requests: exact lengths, no shared prefix unless wanted, the same for the same seed."""

import itertools
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.plan.workload import (
    RequestSpec,
    Spread,
    Workload,
    keep_making,
    make_requests,
    parse_spread,
    workload_from_json,
    workload_to_json,
)

BLOCK = 32


def blocks(spec: RequestSpec) -> list[bytes]:
    """Prefixes of whole KV blocks: two prompts share a block when they share one of these."""
    ids = spec.prompt
    return [ids[:end].tobytes() for end in range(BLOCK, len(ids) + 1, BLOCK)]


workloads = st.builds(
    Workload,
    isl=st.integers(1, 300),
    osl=st.integers(1, 300),
    osl_ratio=st.floats(0.01, 1),
    isl_ratio=st.floats(0.01, 1),
    isl_spread=st.none()
    | st.builds(Spread, st.sampled_from(["normal", "lognormal"]), st.floats(1, 400), st.floats(0, 300)),
    osl_spread=st.none()
    | st.builds(Spread, st.sampled_from(["normal", "lognormal"]), st.floats(1, 400), st.floats(0, 300)),
)


@given(workload=workloads, seed=st.integers(0, 99), first=st.integers(0, 10**6))
def test_lengths_lie_within_the_workloads_limits_and_repeat(workload: Workload, seed: int, first: int) -> None:
    made = make_requests(workload, 20, 1000, seed, first)
    again = make_requests(workload, 20, 1000, seed, first)
    assert [spec.seq for spec in made] == list(range(first, first + 20))
    for spec, same in zip(made, again, strict=True):
        assert 1 <= spec.isl <= workload.isl and 1 <= spec.osl <= workload.osl
        assert spec.prompt.min() >= 100 and spec.prompt.max() < 1000
        assert (spec.osl, spec.prompt.tobytes()) == (same.osl, same.prompt.tobytes())
    if workload.isl_spread is None:
        assert all(spec.isl >= workload.isl_min for spec in made)


@given(workload=workloads)
def test_workloads_survive_json_and_plain_ones_look_as_they_always_did(workload: Workload) -> None:
    assert workload_from_json(workload_to_json(workload)) == workload
    plain = Workload(workload.isl, workload.osl, workload.osl_ratio)
    assert workload_to_json(plain) == {"isl": plain.isl, "osl": plain.osl, "osl_ratio": plain.osl_ratio}
    assert set(asdict(plain)) > {"isl", "osl", "osl_ratio"}


@pytest.mark.parametrize("text", ["normal:1000,200", "lognormal:1000,900"])
def test_a_spread_has_its_mean_and_deviation(text: str) -> None:
    workload = Workload(100_000, 8, isl_spread=parse_spread(text))
    lengths = np.array([workload.isl_spread.draw(np.random.default_rng(0), 100_000, 50_000)])  # type: ignore[union-attr]
    assert workload.isl_spread is not None
    assert lengths.mean() == pytest.approx(workload.isl_spread.mean, rel=0.02)
    assert lengths.std() == pytest.approx(workload.isl_spread.std, rel=0.05)
    assert workload.mean_isl == pytest.approx(workload.isl_spread.mean, rel=0.02)


def test_the_mean_of_a_clipped_spread_is_that_of_its_draws() -> None:
    workload = Workload(8, 1200, osl_spread=parse_spread("normal:1000,400"))
    assert workload.osl_spread is not None
    drawn = workload.osl_spread.draw(np.random.default_rng(1), 1200, 50_000)
    assert workload.mean_osl == pytest.approx(drawn.mean(), rel=0.01)


@pytest.mark.parametrize("text", ["normal", "normal:1", "normal:0,1", "uniform:1,2", "normal:-5,1"])
def test_what_is_no_spread(text: str) -> None:
    with pytest.raises(ValueError, match="form normal:MEAN,STD"):
        parse_spread(text)


def test_no_two_prompts_share_a_block_even_at_different_seeds() -> None:
    some = make_requests(Workload(128, 4), 200, 500, seed=0)
    more = make_requests(Workload(128, 4), 200, 500, seed=0, first_seq=200)
    seen = [block for spec in (*some, *more) for block in blocks(spec)]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_chosen_share_is_common_to_a_group_and_no_more(share: float) -> None:
    made = make_requests(Workload(1024, 4, prefix_share=share, prefix_groups=2), 8, 32000, seed=5)
    shared = round(share * 1024)
    for one, other in itertools.combinations(made, 2):
        same = one.prompt == other.prompt
        if (one.seq - other.seq) % 2 == 0:
            assert same[:shared].all() and not same[shared : shared + 3].all()
        else:
            assert not same[:32].all()


def test_endless_requests_keep_prefix_and_numbers_and_repeat() -> None:
    workload = Workload(256, 4, prefix_share=0.5)
    made = list(itertools.islice(keep_making(workload, 32000, 3), 300))
    again = list(itertools.islice(keep_making(workload, 32000, 3), 300))
    assert [spec.seq for spec in made] == list(range(300))
    assert all((spec.prompt == same.prompt).all() for spec, same in zip(made, again, strict=True))
    assert len({spec.prompt[:128].tobytes() for spec in made}) == 1
    assert len({spec.prompt.tobytes() for spec in made}) == 300


@given(turns=st.integers(2, 6), osl=st.integers(1, 40), number=st.integers(1, 30), seed=st.integers(0, 9))
def test_each_turn_begins_with_the_whole_prompt_before_it(turns: int, osl: int, number: int, seed: int) -> None:
    workload = Workload(240, osl, turns=turns, think_s=1.5)
    made = make_requests(workload, number, 32000, seed, first_seq=7)
    assert [spec.seq for spec in made] == list(range(7, 7 + number))
    for before, after in itertools.pairwise(made):
        if after.turn:
            assert after.session == before.session and after.turn == before.turn + 1
            assert (after.prompt[: before.isl] == before.prompt).all() and after.isl > before.isl
            assert after.delay_s == 1.5
        else:
            assert after.session != before.session and after.delay_s == 0.0
    assert max(spec.isl for spec in made) <= 240
    first_turns = [spec.prompt[:32].tobytes() for spec in made if spec.turn == 0]
    assert len(first_turns) == len(set(first_turns))


def test_real_text_is_cut_anywhere_and_salted() -> None:
    corpus = np.arange(100, 600, dtype=np.int32)
    made = make_requests(Workload(64, 4), 50, 1000, seed=0, corpus=corpus)
    for spec in made:
        stretch = spec.prompt[3:].astype(int)
        assert set(np.diff(stretch)) <= {1, 1 - 500}, "a stretch of the text, in its order, round its end"
    assert len({int(spec.prompt[3]) for spec in made}) > 25
    long = make_requests(Workload(1200, 4), 2, 1000, seed=0, corpus=corpus)
    assert all(spec.isl == 1200 for spec in long)
