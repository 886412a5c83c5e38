"""Control characters in sweeps and profiles, foreign ones too: refused with file and line, never run as shell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.errors import ClusterError, RecipeError, SweepError, UserError
from ratematch.exchange.recipes.srtcluster import SiteChoices, import_cluster
from ratematch.inputs.clusterfile import parse_cluster
from ratematch.plan.cluster import Slurm
from ratematch.run import render
from ratematch.slurm.sbatch import batch_options
from tests.support.invented import LAPTOP, experiment
from tests.support.sweeptext import GOOD, parse

HEAD = "name: rack\ngpu: gb200\ngpus_per_node: 4\nnodes: 18\n"
CHARACTERS = ["\n", "\r", "\t", "\x00", "\x1b", "\x07", "\x7f", "\x85", "\x9b", "\u2028", "\u202e", "\ud800"]

PLACES = [
    'name: "rack{}"\n' + HEAD.partition("\n")[2],
    HEAD + 'slurm: {{sbatch: ["--comment=a{}touch CANARY"]}}\n',
    HEAD + 'slurm: {{srun: ["--network=a{}b"]}}\n',
    HEAD + 'environment: {{A: "b{}c"}}\n',
    HEAD + 'environment: {{"A{}": b}}\n',
    HEAD + 'command: ["serve", "a{}b"]\n',
    HEAD + 'model_paths: {{deepseek-r1: "/models/a{}b"}}\n',
    HEAD + 'numactl: "-m 0{}1"\n',
    HEAD + 'container: {{image: /a.sqsh, mounts: ["/a{}b:/c"]}}\n',
]


@pytest.mark.parametrize("character", CHARACTERS)
def test_a_profile_with_a_control_character_is_refused_with_its_line(character: str) -> None:
    for text in PLACES:
        with pytest.raises(ClusterError) as caught:
            parse_cluster(text.format(json.dumps(character)[1:-1]), "rack.yaml")
        shown = str(caught.value)
        assert f"U+{ord(character):04X}" in shown and "rack.yaml:" in shown
        assert not [line for line in shown.splitlines() if not line.startswith("rack.yaml:")]
        shown.encode()
        assert character == "\n" or character not in shown


@pytest.mark.parametrize(
    "override",
    [
        r'gen.environment.A="b\nc"',
        r'gen.options.extra="a\eb"',
        r'engine.version="1.2\n#"',
        r'model={name: deepseek-r1, path: "/m\0"}',
        r'workloads.0.file="a\nb.jsonl"',
        r'gen.options.extra=["x", {y: "\u009b"}]',
    ],
)
def test_a_sweep_with_a_control_character_is_refused(override: str) -> None:
    with pytest.raises(SweepError, match=r"^--set.*: holds the control character U\+"):
        parse(GOOD, override)


def test_prose_may_have_several_lines_and_no_escape_sequences() -> None:
    assert parse_cluster(HEAD + 'about: "one\\n\\ttwo"\n', "rack.yaml").about == "one\n\ttwo"
    with pytest.raises(ClusterError, match=r"about: holds the control character U\+001B"):
        parse_cluster(HEAD + 'about: "\\e[2J"\n', "rack.yaml")


def test_names_are_of_bounded_length() -> None:
    with pytest.raises(ClusterError, match=r"rack.yaml:1: name: is 10,?000 characters long \(at most 100\)"):
        parse_cluster(HEAD.replace("rack", "r" * 10_000), "rack.yaml")
    with pytest.raises(SweepError, match=r"name: is 101 characters"):
        parse(GOOD, "name=" + "n" * 101)
    with pytest.raises(ClusterError, match="is 100,001 characters long"):
        parse_cluster(HEAD + "environment: {A: " + "a" * 100_001 + "}\n", "rack.yaml")


@pytest.mark.parametrize(
    "line",
    [
        'default_sbatch_directives: {comment: "x\\ntouch CANARY\\n#"}',
        'default_sbatch_directives: {"comment\\ntouch CANARY": x}',
        'default_partition: "batch\\e[2J"',
        'model_paths: {deepseek-r1: "/models/deepseek-r1\\r"}',
    ],
)
def test_a_foreign_profile_is_refused_by_its_own_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "srtslurm.yaml").write_text(f"cluster: oak\ndefault_gpu_type: gb200\ngpus_per_node: 4\n{line}\n")
    with pytest.raises(RecipeError, match=r"srtslurm.yaml:4: .* holds the control character"):
        import_cluster(tmp_path / "srtslurm.yaml", SiteChoices())


def test_a_script_has_no_line_of_somebody_elses_even_from_a_folder_that_somebody_changed() -> None:
    asked = experiment()
    evil = replace(asked, engine=replace(asked.engine, version="1.2"), cluster="x\ntouch CANARY")
    (one,) = render.render(evil, replace(LAPTOP, name="x\ntouch CANARY #"), allocated=False)
    assert not [line for line in one.files["run.sh"].splitlines() if line.startswith("touch")]
    evil_slurm = replace(LAPTOP, slurm=Slurm(sbatch=("--comment=a\ntouch CANARY\n#",)))
    with pytest.raises(UserError, match=r"--comment=a\?touch CANARY\?# of the cluster profile holds a control char"):
        batch_options(evil_slurm, 1, 5)
    with pytest.raises(UserError, match="holds a control character"):
        render.render(asked, evil_slurm, allocated=True)
