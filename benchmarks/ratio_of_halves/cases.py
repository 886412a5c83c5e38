"""What the ratio is solved for: pairs of servers of several GPU types, formats, lengths, mappings and drafts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Case:
    """A ctx and a gen server of DeepSeek-R1, and the most GPUs of a deployment.

    ``gen_batch``: sequence slots of a gen server's attention-DP rank. ``length_ratio``: lengths are uniform on
    [this x L, L]; 1: all of one length, so that requests stay in waves.
    """

    gpu: str
    precision: str
    isl: int
    osl: int
    ctx: str
    gen: str
    gen_batch: int
    budget: int
    mtp: int = 0
    length_ratio: float = 0.8

    @property
    def label(self) -> str:
        drafts = f", MTP {self.mtp}" if self.mtp else ""
        lengths = f"{self.isl}/{self.osl}" + ("" if self.length_ratio < 1 else " of one length")
        return f"{self.gpu} {self.precision} {lengths}: {self.ctx} + {self.gen}{drafts}"


def _case(gpu: str, lengths: str, servers: str, budget: int, mtp: int = 0, ratio: float = 0.8) -> Case:
    """``gpu``: with the precision; ``servers``: ctx, gen and its slots, as ``DEP4 DEP8 128``."""
    (name, precision), (isl, osl), (ctx, gen, slots) = gpu.split(), lengths.split("/"), servers.split()
    return Case(
        gpu=name, precision=precision, isl=int(isl), osl=int(osl), ctx=ctx, gen=gen, gen_batch=int(slots),
        budget=budget, mtp=mtp, length_ratio=ratio,
    )  # fmt: skip


CASES = (
    _case("b200 fp4", "1024/1024", "DEP4 DEP8 64", 40),
    _case("b200 fp4", "1024/1024", "DEP4 TEP8 64", 44),
    _case("b200 fp4", "8192/1024", "DEP4 DEP8 32", 44),
    _case("b200 fp4", "8192/1024", "TP4 TP4 32", 28, 3),
    _case("b200 fp4", "1024/8192", "DEP4 DEP8 16", 44),
    _case("b200 fp8", "8192/1024", "DEP8 DEP8 16", 56, 2),
    _case("b200 fp8", "1024/1024", "TP8 TEP8 64", 56),
    _case("b300 fp4", "1024/1024", "DEP2 TEP4 64", 24),
    _case("b300 fp4", "8192/1024", "DEP2 DEP4 64", 22, 3),
    _case("b300 fp8", "1024/1024", "DEP4 DEP8 64", 40, 1),
    _case("b300 fp8", "1024/8192", "DEP4 TP8 16", 44, 3),
    _case("gb200 fp4", "1024/1024", "DEP4 DEP16 32", 72, 1),
    _case("gb200 fp4", "8192/1024", "DEP4 DEP8 64", 44),
    _case("gb200 fp4", "8192/1024", "DEP4 DEP32 8", 72, 3),
    _case("gb200 fp4", "8192/1024", "DEP4 DEP8 32", 44, 0, 1.0),
    _case("gb200 fp4", "8192/256", "DEP4 TEP8 64", 44, 0, 1.0),
    _case("gb200 fp8", "1024/8192", "DEP8 DEP16 16", 72),
    _case("gb300 fp4", "1024/1024", "DEP2 DEP8 64", 36),
    _case("gb300 fp4", "8192/1024", "DEP2 DEP4 128", 22),
    _case("gb300 fp4", "8192/1024", "DEP2 TEP8 32", 36, 3),
    _case("gb300 fp8", "1024/1024", "DEP4 DEP16 32", 72, 3),
    _case("gb300 fp8", "8192/1024", "DEP4 DEP8 64", 44),
    _case("h200 fp8", "1024/1024", "TP8 DEP8 32", 56),
    _case("h200 fp8", "8192/1024", "TEP8 TEP8 32", 56, 1),
)
"""No case was chosen for its result."""
