"""Figures of columns are those that lists of records gave, in every digit that is printed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any

from ratematch.measure.columns import INTS, TEXTS
from ratematch.measure.measurement import measure_load, to_json
from ratematch.measure.records import RequestRecord

from .randomloads import random_client, random_goal, random_load

BEFORE = "389b4e674299bb1f45aeff6b2792667de3f8f3dad663f50b5ec727e85dc689ed"
"""Of the version that computed from a list of records, but for ``tok_s_ci``: batches of lives in closed loads."""


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, (list, tuple)) else value


def figures(seeds: range, most: int) -> str:
    digest = hashlib.sha256()
    for seed in seeds:
        records, load, workload = random_load(seed, most)
        measured = measure_load(records, load, workload, goodput=random_goal(seed), client=random_client(seed))
        digest.update(json.dumps(rounded(to_json(measured)), sort_keys=True).encode())
    return digest.hexdigest()


def test_figures_of_random_loads_are_those_of_before() -> None:
    assert figures(range(40), 300) == BEFORE


def test_every_field_of_a_record_has_a_column() -> None:
    assert {*INTS, *TEXTS, "decoded_per_iter", "chunk_ns"} == {field.name for field in fields(RequestRecord)}
