"""What a report page says, as values.

:mod:`ratematch.report.collect` gathers them, :mod:`ratematch.report.page` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ratematch.match.points import Analysis, WorkloadAnalysis
from ratematch.match.recommend import Recommendation
from ratematch.measure.measured import Measured
from ratematch.show.picture import Picture


@dataclass(frozen=True)
class RunFile:
    """A ready-to-run file. ``path``: below the bundle's folder."""

    path: str
    content: str


@dataclass(frozen=True)
class Bundle:
    """The files of one recommended deployment. ``hint``: how to use them, in a sentence."""

    anchor: str
    title: str
    hint: str
    files: tuple[RunFile, ...]


@dataclass(frozen=True)
class Section:
    """One workload. ``invalid``: measured end-to-end and IFB loads that stand on no front."""

    workload: WorkloadAnalysis
    recommendations: tuple[Recommendation, ...]
    pictures: tuple[Picture, ...]
    invalid: tuple[Measured, ...] = ()
    bundles: Mapping[float, Bundle] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything the page says. ``limits``, ``origin``: in words. ``provenance``: (name, value) rows."""

    analysis: Analysis
    command: str
    limits: str
    origin: str
    provenance: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()
