"""What a given installation of Dynamo says about itself: the versions, and the flags that its programs take."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from ratematch.engines.dynamo.contract import Program, flags, pinned_backend, release_line
from ratematch.plan.finding import Finding

_OPTION = re.compile(r"(?:^\s+|, )--([A-Za-z][\w-]*)", re.MULTILINE)
_MARK = "dynamo-versions:"

VERSIONS = (
    "import importlib.metadata as m\n"
    "def v(n):\n"
    "    try: return m.version(n)\n"
    "    except m.PackageNotFoundError: return '-'\n"
    f"print('{_MARK}', v('ai-dynamo'), v('ai-dynamo-runtime'), v('tensorrt-llm'), v('vllm'))"
)

SERVICES = (
    "for p in etcd nats-server nginx; do printf '%s: ' \"$p\"; "
    'command -v "$p" >/dev/null && { "$p" --version 2>/dev/null || "$p" -v 2>&1; } | head -n 1 || echo none; done'
)

NEEDED: Mapping[str, tuple[str, ...]] = {
    "frontend": ("http-host", "http-port", "router-mode", "request-plane"),
    "trtllm": ("model-path", "served-model-name", "disaggregation-mode", "extra-engine-args", "request-plane"),
    "vllm": ("request-plane",),
}
"""Flags that every rendered command uses."""


def probe_commands(backend: Program) -> Callable[[Sequence[str]], dict[str, tuple[str, ...]]]:
    """What to run on a node to learn what is installed there; ``command`` starts the Python that has Dynamo."""

    def commands(command: Sequence[str]) -> dict[str, tuple[str, ...]]:
        return {
            "version": (*command, "-c", VERSIONS),
            "frontend": (*command, "-m", "dynamo.frontend", "--help"),
            backend: (*command, "-m", f"dynamo.{backend}", "--help"),
            "services": ("sh", "-c", SERVICES),
        }

    return commands


def local_commands(command: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What runs where no engine is: the frontend, and what stands beside it."""
    asked = probe_commands("trtllm")(command)
    return {name: asked[name] for name in ("version", "frontend", "services")}


def judge_probe(answers: Mapping[str, str]) -> list[Finding]:
    """The output of :func:`probe_commands`, compared with the contract of the release that it names."""
    line = next((line for line in answers.get("version", "").splitlines() if line.startswith(_MARK)), None)
    if line is None:
        last = " ".join(answers.get("version", "").split())[-200:]
        return [Finding("version", False, f"Python printed no version of Dynamo; its output: {last or 'nothing'}")]
    words = line.removeprefix(_MARK).split()
    version, runtime, engines = words[0], words[1], {"trtllm": words[2], "vllm": words[3]}
    if version == "-":
        return [Finding("version", False, "ai-dynamo is not installed there")]
    try:
        known = release_line(version)
    except ValueError as error:
        return [Finding("version", False, str(error))]
    findings = [
        Finding("version", True, f'{version}: set engine: {{name: dynamo, version: "{version}"}} in the sweep')
    ]
    if runtime != version:
        findings.append(Finding("runtime", False, f"ai-dynamo-runtime is {runtime}, ai-dynamo is {version}"))
    programs: tuple[Program, ...] = ("frontend", "trtllm", "vllm")
    for program in programs:
        if program in answers:
            findings += _judge_backend(program, version, engines)
            findings.append(_judge_flags(program, answers[program], known))
    return [*findings, *_judge_services(answers.get("services", ""))]


def _judge_backend(program: Program, version: str, engines: Mapping[str, str]) -> list[Finding]:
    if program == "frontend":
        return []
    there, pinned = engines[program], pinned_backend(version, program)
    if there == "-":
        return [Finding(f"{program} engine", False, f"it is not installed; Dynamo {version} pins {pinned}")]
    text = f'{there}: set engine.backend_version: "{there}"' if there != pinned else f"{there}, as Dynamo pins it"
    return [Finding(f"{program} engine", True, text)]


def _judge_flags(program: Program, text: str, line: str) -> Finding:
    there = {name.removeprefix("no-") for name in _OPTION.findall(text)}
    known = flags(program, line)
    spelled = {name.removeprefix("no-") for name in known} | {
        other for rule in known.values() for other in rule.get("also") or ()
    }
    if lost := sorted(set(NEEDED[program]) - there):
        named = ", ".join(f"--{name}" for name in lost)
        return Finding(program, False, f"--help does not name {named}, which it is started with")
    missing = sorted(
        name
        for name, rule in known.items()
        if {name.removeprefix("no-"), *(rule.get("also") or ())}.isdisjoint(there)
    )
    new = sorted(there - spelled - {"help", "version"}) if program != "vllm" else []
    parts = [f"{len(known) - len(missing)} of {len(known)} known flags"]
    parts += [f"not there: {', '.join(missing)}"] if missing else []
    parts += [f"not known here: {', '.join(new)}"] if new else []
    return Finding(program, True, "; ".join(parts))


def _judge_services(text: str) -> list[Finding]:
    findings = []
    needs = {"etcd": "discovery: etcd", "nats-server": "request_plane or event_plane: nats", "nginx": "nginx: true"}
    for line in text.splitlines():
        name, _, what = line.partition(": ")
        if name in needs:
            there = what.strip() not in ("", "none")
            words = what.strip() if there else f"is not on PATH; {needs[name]} needs it (engine.programs may name it)"
            findings.append(Finding(name, there or name != "etcd", words))
    return findings
