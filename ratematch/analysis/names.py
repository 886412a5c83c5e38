"""One name for one configuration of servers, however many sweeps of a folder have named it.

The options that a sweep has as axes are a part of its labels. A later sweep into the same folder has other axes, or
none, and its experiments are in part those of the first: without care one deployment would have two names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ratematch.measure.measured import Measured
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment


def with_one_name(rows: Sequence[Measured]) -> list[Measured]:
    """The rows with the fullest name that any of them has for each configuration: servers of one role, parallelism
    and options, whatever their number and their workload."""
    experiments = list({id(row.experiment): row.experiment for row in rows}.values())
    named = {id(old): new for old, new in zip(experiments, name_alike(experiments), strict=True)}
    return [
        row if (other := named[id(row.experiment)]) is row.experiment else replace(row, experiment=other)
        for row in rows
    ]


def name_alike(experiments: Sequence[Experiment]) -> list[Experiment]:
    """The experiments with the fullest name that any of them has for each configuration; those that have it already
    are themselves."""
    names: dict[str, str] = {}
    for group in _groups(experiments):
        key = _key(group)
        names[key] = max(names.get(key, ""), group.tag, key=lambda tag: (len(tag), tag))
    return [_renamed(experiment, names) for experiment in experiments]


def _groups(experiments: Iterable[Experiment]) -> Iterable[ServerGroup]:
    return (group for experiment in experiments for group in experiment.deployment.groups)


def _renamed(experiment: Experiment, names: dict[str, str]) -> Experiment:
    deployment = experiment.deployment
    changed: dict[str, Any] = {
        group.role: replace(group, tag=names[_key(group)])
        for group in deployment.groups
        if group.tag != names[_key(group)]
    }
    return replace(experiment, deployment=replace(deployment, **changed)) if changed else experiment


def _key(group: ServerGroup) -> str:
    """The same for groups that differ in nothing but their number, limits, drafts and names."""
    content = [group.role, group.mapping.label, group.options, group.config, group.environment]
    return json.dumps(content, sort_keys=True, default=repr)
