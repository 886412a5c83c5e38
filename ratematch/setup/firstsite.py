"""Writes the first files of a site, after reading them as a sweep would."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ratematch.engines import ENGINES
from ratematch.errors import RatematchError, UserError
from ratematch.inputs.catalog import known_gpus, load_gpu, load_model
from ratematch.inputs.clusterfile import parse_cluster
from ratematch.plan.cluster import Cluster
from ratematch.plan.sweepfile import parse_sweep
from ratematch.setup.answers import Given, SiteAnswers, settle_site, settle_sweep
from ratematch.setup.firstfiles import write_profile, write_sweep
from ratematch.slurm.survey import survey_slurm
from ratematch.store.files import write_new

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")


@dataclass(frozen=True)
class FirstFiles:
    """``name``: of the profile. ``profile`` and ``sweep``: the files that were written."""

    name: str
    profile: Path
    sweep: Path


def set_up(given: Given, model: str, *, isl: int, osl: int, folder: Path, force: bool = False) -> FirstFiles:
    """Write ``folder``/NAME.yaml and NAME-first.yaml here.

    Raises:
        UserError: something is not known, and the message names the option; or a file is there already.
        RatematchError: an answer that no profile or sweep takes, with file and line of the text it would make.
    """
    served = load_model(model)
    site = settle_site(given, survey_slurm(), known_gpus())
    if not NAME.fullmatch(site.name):
        raise UserError(f"--name {site.name!r}: letters, digits, '.', '_' and '-'")
    profile = write_profile(site, served.name)
    path = folder / f"{site.name}.yaml"
    cluster = _read(profile, path, site)
    first = f"{site.name}-first"
    gpu = load_gpu(cluster.gpu)
    sweep = write_sweep(site, settle_sweep(served, gpu, gpus=cluster.gpus, isl=isl, osl=osl, image=site.image), first)
    parse_sweep(
        sweep,
        f"{first}.yaml",
        find_model=load_model,
        find_gpu=load_gpu,
        engines=ENGINES,
        find_cluster=lambda _: cluster,
    )
    made = FirstFiles(site.name, path, Path(f"{first}.yaml"))
    write_new({made.profile: profile, made.sweep: sweep}, force=force)
    return made


def _read(profile: str, path: Path, site: SiteAnswers) -> Cluster:
    try:
        return parse_cluster(profile, path.name, path.parent)
    except RatematchError as error:
        if site.slurm or site.gpu != "auto":
            raise
        raise UserError(
            f"no Slurm answers here, and {str(error).rpartition('gpu: ')[2]}; run this on a login node, or, to try "
            "everything without GPUs, with --emulated --gpu h200 --gpus-per-node 8"
        ) from None
