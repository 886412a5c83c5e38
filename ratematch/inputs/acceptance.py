"""Published acceptance of drafts, from ``ratematch/data/acceptance.yaml``."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import msgspec

from ratematch.engines.ownyaml import read_shipped_yaml
from ratematch.plan.acceptance import AcceptanceCurve
from ratematch.plan.model import Model


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    models: tuple[str, ...]
    name: str
    dataset: str
    tokens: tuple[float, ...]
    between: tuple[tuple[float, float], ...]
    source: str
    usual: bool = False
    golden: bool = False

    @property
    def curve(self) -> AcceptanceCurve:
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name != "models"}
        return AcceptanceCurve(**{**fields, "source": " ".join(self.source.split())})


@cache
def _entries() -> tuple[_Entry, ...]:
    return msgspec.convert(read_shipped_yaml("ratematch", "data", "acceptance.yaml"), tuple[_Entry, ...])


def curves_of(model: str) -> tuple[AcceptanceCurve, ...]:
    """What is published of a model of the catalog, by its name."""
    return tuple(entry.curve for entry in _entries() if model in entry.models)


def with_curves(model: Model) -> Model:
    """``model`` with what is published of it; one of the package's own accepts the usual curve where its file says
    nothing of acceptance."""
    curves = curves_of(model.name)
    usual = next((curve for curve in curves if curve.usual), None)
    if usual is None or model.mtp_acceptance or not model.mtp_layers or model.file:
        return replace(model, acceptance_curves=curves) if curves else model
    return replace(model, acceptance_curves=curves, mtp_acceptance=usual.rates)
