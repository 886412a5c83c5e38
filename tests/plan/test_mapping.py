"""Mappings: what they count, how they are named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.plan.parallelism import Parallelism, parse_mapping


@pytest.mark.parametrize(
    ("label", "mapping", "gpus", "ranks"),
    [
        ("TP1", Parallelism(), 1, 1),
        ("TP8", Parallelism(tp=8), 8, 1),
        ("TEP4", Parallelism(tp=4, ep=4), 4, 1),
        ("DEP8", Parallelism(tp=8, ep=8, attention_dp=True), 8, 8),
        ("DP4", Parallelism(tp=4, attention_dp=True), 4, 4),
        ("TP8EP2", Parallelism(tp=8, ep=2), 8, 1),
        ("TP4PP2", Parallelism(tp=4, pp=2), 8, 1),
        ("DEP4PP2CP2", Parallelism(tp=4, ep=4, pp=2, cp=2, attention_dp=True), 16, 4),
    ],
)
def test_labels_gpus_and_ranks(label: str, mapping: Parallelism, gpus: int, ranks: int) -> None:
    assert mapping.label == label
    assert parse_mapping(label.lower()) == mapping
    assert (mapping.gpus, mapping.dp_ranks) == (gpus, ranks)


@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    ep=st.sampled_from([1, 2, 4, 8]),
    pp=st.integers(1, 4),
    cp=st.integers(1, 4),
    adp=st.booleans(),
)
def test_a_label_names_one_mapping(tp: int, ep: int, pp: int, cp: int, adp: bool) -> None:
    mapping = Parallelism(tp, pp, cp, ep, adp)
    if mapping.problems():
        assert tp % ep
    else:
        assert parse_mapping(mapping.label) == mapping


@pytest.mark.parametrize("text", ["", "8", "TEP", "XEP8", "TEP8EP4", "PP2"])
def test_other_words_are_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"TP8|names ep twice"):
        parse_mapping(text)
