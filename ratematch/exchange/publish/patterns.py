"""What names a person, a machine or a place looks like in text, kind by kind, each with what is harmless of its form.

Each pattern's group ``x`` is what must go; a match whose ``x`` is a pseudonym, or something that everybody has
(loopback addresses, public registries), is left.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ratematch.plan.secret import MASK, is_secret

Kind = Literal[
    "secret", "email", "gpu", "id", "host", "address", "mac", "pci", "user", "path", "account", "value", "hash",
    "cluster", "hidden",
]  # fmt: skip
"""``hash``: long hexadecimal digits; ``hidden``: words that a person gave to be hidden."""

PSEUDONYM = re.compile(
    r"(?:host|user|account|cluster)-\d+|"
    r"<(?:(?:path|id|gpu|hash|value|hidden|pci|mac|secret|email)(?:-\d+)?|model|home|results|command)>|"
    r"\*\*\*|<left out>"
)
"""What stands in place of a name."""

EVERYBODYS_HOSTS = re.compile(
    r"(?i)localhost|local\d*|0\.0\.0\.0|127(?:\.\d+){3}|::1?|none|null|nan|any|all|auto|default|"
    r"nvcr\.io|docker\.io|ghcr\.io|quay\.io|pypi\.org|arxiv\.org|hf\.co|files\.pythonhosted\.org|"
    r"(?:registry-1\.|www\.)?docker\.com|(?:www\.|raw\.)?github(?:usercontent)?\.com|gitlab\.com|"
    r"(?:www\.|cdn-lfs\.)?huggingface\.co|(?:docs\.|download\.|dev-discuss\.)?pytorch\.org|"
    r"(?:docs|developer|ngc|catalog\.ngc)\.nvidia\.com|(?:docs\.|blog\.)?vllm\.ai|(?:docs\.|www\.)?python\.org|"
    r"[\w-]+\.readthedocs\.io|json-schema\.org|www\.w3\.org|(?:www\.)?apache\.org|api\.openai\.com|en\.wikipedia\.org"
)
"""Hosts that say nothing of who measured: of this machine, and public ones. Names below them are addresses of pages
and packages."""

ROUTES = re.compile(
    r"/(?:v1(?:/(?:completions|chat/completions|models|embeddings|responses))?|v2|health|health_generate|live|ping|"
    r"version|"
    r"metrics|prometheus/metrics|perf_metrics|server_info|cluster_info|steady_clock_offset|kv_cache_events|"
    r"invocations|generate|tokenize|detokenize|load|docs|openapi\.json|redoc|tmp|"
    r"dev/(?:null|stdout|stderr|stdin|shm)|"
    r"(?:usr/)?bin/(?:env|bash|sh|python3?)|proc(?:/self)?|"
    r"usr/lib/python3[\d.]*/[a-z0-9_]+(?:/[a-z0-9_]+)*\.py)"
)
"""Paths that every server and every machine has."""

GENERIC_USERS = frozenset((
    "root", "git", "ubuntu", "user", "users", "admin", "nobody", "debian", "centos", "ec2-user", "opc",
    "azureuser", "runner", "builder", "default", "shared", "public", "data", "model", "models", "local", "test",
    "guest", "linux", "daemon", "www-data", "slurm", "ray", "docker", "podman", "vagrant",
))  # fmt: skip

_HEX = "[0-9A-Fa-f]"
_GROUP = f"{_HEX}{{1,4}}"
_IPV6 = "|".join(
    [
        f"(?:{_GROUP}:){{7}}{_GROUP}",
        *(f"(?:{_GROUP}:){{{left}}}(?::{_GROUP}){{1,{7 - left}}}" for left in range(6, 0, -1)),
        f":(?::{_GROUP}){{1,7}}",
        f"(?:{_GROUP}:){{1,7}}:",
    ]
)
_TLD = (
    r"com|net|org|edu|gov|mil|int|io|ai|dev|cloud|app|tech|science|cluster|hpc|local|internal|intranet|intra|lan|"
    r"corp|"
    r"private|priv|home|localdomain|domain|example|test|invalid|arpa|site|systems|compute|svc|consul|ts"
)
_COUNTRY = (
    "ac|at|au|be|br|ca|ch|cl|cn|cz|de|dk|ee|es|eu|fi|fr|gr|hk|hr|hu|ie|il|in|it|jp|kr|kz|lt|lu|lv|mx|nl|no|nz|pl|pt|"
    "ro|ru|sa|se|sg|si|sk|tr|tw|ua|uk|us|za"
)
"""Not those that end the names of files: py, sh, so, md, cc, rs."""


@dataclass(frozen=True)
class Pattern:
    """Text of ``kind``, as ``regex`` matches it in its group ``x``, where ``counts`` (of that text) holds."""

    kind: Kind
    regex: re.Pattern[str]
    counts: Callable[[str], bool]

    def find(self, text: str) -> Iterator[re.Match[str]]:
        """Matches that must go."""
        for match in self.regex.finditer(text):
            if self.is_named(match["x"]):
                yield match

    def is_named(self, text: str) -> bool:
        return bool(text) and PSEUDONYM.fullmatch(text) is None and self.counts(text)


def anything(text: str) -> bool:
    """Of a pattern whose every match must go."""
    return True


def made(kind: Kind, regex: str, counts: Callable[[str], bool] = anything) -> Pattern:
    """A pattern of the text of its expression."""
    return Pattern(kind, re.compile(regex), counts)


def is_host(name: str) -> bool:
    """Does ``name`` stand for a machine that not everybody has?"""
    bare = name.strip("[]().,;:'\"").split("%")[0]
    return bool(re.search("[A-Za-z]", bare)) and not EVERYBODYS_HOSTS.fullmatch(bare) and not _is_number(bare)


def is_url_host(name: str) -> bool:
    """The same of the host in a URL, which may be an address."""
    return (
        is_address(name.strip("[]"))
        if re.fullmatch(r"[\d.]+|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?", name)
        else is_host(name)
    )


def is_address(text: str) -> bool:
    """Is it an IP address, and not one that every machine calls itself?"""
    try:
        address = ipaddress.ip_address(text.rstrip(".:") if not text.endswith("::") else text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def is_path(text: str) -> bool:
    """Does it name a place that not every machine has? ``/s`` of a rate is none."""
    bare = text.rstrip("/.,;:")
    return len(bare) > 3 and re.search(r"[^\W\d_]", bare) is not None and not ROUTES.fullmatch(bare)


LONGEST_WORD = 16


def is_random(text: str) -> bool:
    """Is it a key rather than words: capital and small letters and digits, evenly mixed?"""
    if "<" in text or not all(re.search(kind, text) for kind in ("[a-z]", "[A-Z]", "[0-9]")):
        return False
    if max(map(len, re.split("[-_/+]", text))) < LONGEST_WORD:
        return False  # a label of several words
    counts = Counter(text)
    entropy = -sum(count / len(text) * math.log2(count / len(text)) for count in counts.values())
    return entropy > (3.9 if len(text) < 40 else 4.6)


NUMBERS = re.compile(r"[-+0-9.,:;eEx%/ ]*")
WORDS = frozenset((
    "true", "false", "yes", "no", "on", "off", "none", "null", "auto", "default", "info", "debug", "warn",
    "warning", "error", "trace", "fatal", "critical", "all", "self", "sm", "shm", "cuda", "cuda_ipc", "cuda_copy",
    "gdr_copy", "rc", "rc_x", "ud", "ud_x", "dc", "dc_x", "tcp", "ib", "ucx", "nixl", "mooncake", "mpi", "nccl",
    "gloo", "spawn", "fork", "forkserver", "flash_attn", "flashinfer", "flash_attn_vllm_v1", "triton", "xformers",
    "torch", "cutlass", "trtllm", "cutedsl", "wideep", "deepgemm", "posix", "pmix", "file", "fabric", "nd", "hnd",
    "nhd", "fp8", "bf16", "fp16", "fp4", "nvfp4", "auto_fp8", "python", "cpp", "system", "p2p", "nvl", "pix",
    "pxb", "phb", "sys", "ring", "tree", "ll", "ll128", "simple", "process", "thread", "passive", "active",
    "expandable_segments:true", "native", "deepep", "allgather_reducescatter",
))  # fmt: skip
"""Values of settings that say something of the software and nothing of a site."""


def is_harmless(value: str) -> bool:
    """May the value of a variable of an environment be shown: a number, a switch, a word of the software?"""
    if PSEUDONYM.fullmatch(value) or value == MASK:
        return True
    if NUMBERS.fullmatch(value):
        return not any(is_address(part) for part in re.split(r"[,; ]", value))
    if EVERYBODYS_HOSTS.fullmatch(value):
        return True
    return all(part in WORDS or NUMBERS.fullmatch(part) for part in re.split(r"[,; ^=|]", value.lower()))


def _is_number(text: str) -> bool:
    return NUMBERS.fullmatch(text) is not None


def _is_machine(text: str) -> bool:
    """Of a dotted name: a file, a module and a version are none."""
    return is_host(text) and not re.fullmatch(r"(?i)[\w.-]*\.(?:py|so|cc|cpp|cu|h|json|yaml|yml|md|sh|txt|log)", text)


def _is_foreign(text: str) -> bool:
    """A country's name ends file names and sentences too: only of names with two dots, or a digit or dash."""
    return _is_machine(text) and (text.count(".") > 1 or bool(re.search(r"[\d-]", text.rsplit(".", 1)[0])))


def _is_value(assignment: str) -> bool:
    name, _, value = assignment.partition("=")
    bare = value.strip("\"'")
    if name in SCRIPT_NAMES or bare.startswith(("$", "(")) or not bare:
        return False
    return (is_secret(name, bare) and bare != MASK) or not is_harmless(bare)


def _is_person(text: str) -> bool:
    return text.lower() not in GENERIC_USERS | WORDS


def _has_no_word_alone(text: str) -> bool:
    return bool(re.search("[0-9=_.+/]", text))


DOERS = frozenset(("the", "ratematch", "slurm", "hand", "this", "our", "an"))
"""What runs something, and is nobody."""

SCRIPT_NAMES = frozenset((
    "RATEMATCH", "HERE", "NAMES", "PIDS", "CODE", "WORK", "ENDPOINT", "MODEL", "SECONDS", "BASH_SOURCE", "EXIT",
))  # fmt: skip
"""Variables that ``run.sh`` itself has; what stands in them is looked at for what it is."""

_SECRET_WORD = (
    r"(?:pass(?:word|wd|phrase)|secret|api[_-]?key|access[_-]?key|auth[_-]?(?:token|key)|token|credential|cookie)s?"
)

WHOLE = (
    made("secret", r"(?P<x>-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.|\n)*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z))"),
    made("path", r"(?P<x>(?:(?<![\w/])|(?<=\\[nrt]))(?:[A-Za-z]:\\|\\\\)[^\s'\",;)\]}<>|]+)"),
)
"""What may have a line's end in it, or looks as if."""

LINE_ENDS = re.compile(r"(\\[nrt])")
"""Line ends and tabs of a text inside a text: what follows begins there."""

_TOKENS = (
    r"(?:hf_|sk-|sk_|pk_|gh[opsur]_|github_pat_|glpat-|xox[abpsr]-|nvapi-|AKIA|ASIA|ya29\.|AIza|npm_|pypi-|"
    r"dop_v1_|tok_)"
    r"[A-Za-z0-9_.-]{8,}"
)
_JWT = r"eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){0,2}"
SECRETS = (
    made("secret", rf"(?<![A-Za-z0-9])(?P<x>{_TOKENS}|{_JWT})"),
    made("secret", r"(?i)\b(?:bearer|basic)\s+(?P<x>[A-Za-z0-9+/_.=~-]{6,})", _has_no_word_alone),
    made(
        "secret",
        rf"(?i)(?<![A-Za-z0-9]){_SECRET_WORD}['\"]?\s*[=:]\s*['\"]?(?P<x>[^\s'\",;&<>}}{{\])]{{4,}})",
        lambda text: not is_harmless(text) and not re.fullmatch(r"[a-z_]{1,12}", text),
    ),
    made("secret", r"(?i)://(?P<x>[^\s/@:'\"<>]+:[^\s/@'\"]+)@"),
)

_UUID = rf"{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}"
_URL = r"(?i)\b[a-z][a-z0-9+.-]*://"
_URL_HOST = r"(?:\[[^\]\s]*\]|[^\s/?#'\"<>,;)\]}]+)"
_REST = r"[^\s'\",;)\]}<>]"
NAMES = (
    made("email", r"(?P<x>[\w.+%-]+@[\w-]+(?:\.[\w-]+)+)"),
    made("gpu", rf"(?P<x>(?:GPU|MIG)-{_UUID}(?:/\d+/\d+)?)"),
    made(
        "gpu",
        r"(?i)\bserial(?:[ _-]?(?:number|no))?\.?\s*[=:#]?\s*(?P<x>(?=[A-Z-]*\d)[A-Z0-9-]{8,})(?![\w-])",
    ),
    made("id", rf"(?P<x>(?<!{_HEX}){_UUID}(?!{_HEX}))"),
    made("host", _URL + r"(?:[^\s/@]*@)?(?P<x>\[[0-9a-f:.%]+\]|[^\s/:?#'\"<>,;)\]}]+)", is_url_host),
    made("path", rf"(?i)\bfile://(?P<x>/{_REST}*)", is_path),
    made("path", rf"{_URL}{_URL_HOST}(?P<x>/{_REST}*)", lambda text: is_path(text.split("?")[0]) or "?" in text),
    made("path", rf"{_URL}[^\s/?#'\"<>,;)\]}}]+(?P<x>\?{_REST}+)"),
    made("path", rf"(?<![\w-])host-\d+(?::\d+)?(?P<x>/{_REST}+)", is_path),
    made("path", rf"(?:@[\w.-]+|<email>):(?P<x>[\w.~-]+/{_REST}+)"),
    made("mac", r"(?P<x>(?<![\dA-Fa-f:-])H{2}(?:([:-])H{2})(?:\2H{2}){4}(?![:-]?H))".replace("H", _HEX)),
    made("pci", r"(?P<x>(?<![\dA-Fa-f:])H{4,8}:H{2}:H{2}\.\d(?!\d))".replace("H", _HEX)),
    made("address", r"(?<![\d.])(?P<x>\d{1,3}(?:\.\d{1,3}){3})(?!\d|\.\d)", is_address),
    made("address", rf"(?<![\w:.])(?P<x>{_IPV6})(?!\w)", is_address),
    made("user", r"(?<![\w.@/])(?P<x>[A-Za-z_][\w.-]*)@(?=[A-Za-z0-9<])", _is_person),
    made("host", r"(?<=[\w>])@(?P<x>[A-Za-z][\w-]*[\w])(?![A-Za-z0-9])", is_host),
)

PLACES = (
    made("path", r"(?P<q>['\"])(?P<x>(?:/|~/|~\w+/)[^'\"\n]{2,}?)(?P=q)", is_path),
    made("path", r"(?P<x>\$\{?(?!HERE|WORK)\w+\}?(?:/[^\s'\"`,;:()\[\]{}<>|&*?\\$]+)+)"),
    made("path", r"(?P<x>(?:%2[Ff][\w.+-]+){2,})"),
    made(
        "path",
        r"(?P<x>(?:(?<![\w./~)}$-])|(?<=\s-[A-Za-z])|(?<=@))(?:~[\w.-]*)?/(?![/\s])"
        r"(?:[^\s'\"`,;:()\[\]{}<>|&*?\\]|\\ )+)",
        is_path,
    ),
    made(
        "path",
        r"(?P<x>(?<![\w/])/(?:home|Users|users|scratch|lustre|nfs|gpfs|data|mnt|work|projects?)(?=[\s'\":,;]|$))",
    ),
)

_LABELS = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+"
_STEMS = (
    r"[a-z]*node|nid|[a-z]*host|dgx|hgx|rack|blade|login|compute|srv|cn|head|gpunode|nvl72|gb[23]00|ip"
)  # fmt: skip
MACHINES = (
    made("host", rf"(?i)(?<![\w.@/-])(?P<x>{_LABELS}(?:{_TLD}))(?![\w-]|\.\w)", _is_machine),
    made("host", rf"(?<![\w.@/-])(?P<x>{_LABELS}(?:{_COUNTRY}))(?![\w-]|\.\w)", _is_foreign),
    made(
        "host",
        rf"(?i)(?<![\w.-])(?P<x>(?:[a-z][a-z0-9]*[-_.])*(?:{_STEMS})[-_]?(?:[a-z]*\d+[-_.])*[a-z]{{0,3}}\d{{2,}}"
        r"(?:[-_.][a-z0-9]+)*)(?![\w<])",
        lambda text: is_host(text) and not re.fullmatch(r"(?i)(?:gb[23]00|nvl72)(?:[-_]nvl\d+)?", text),
    ),
    made("host", r"(?i)(?<![\w])(?P<x>[a-z][\w-]*\[\d[\d,-]*\](?:[\w.-]*))", lambda text: "-" in text or "," in text),
)

_IS = r"['\"]?\s*[=:]\s*['\"]?"
_OPTION = r"(?i)(?<![\w-])-{0,2}"
CONTEXTS = (
    made(
        "host",
        r"(?i)(?<![\w-])(?:host[ _]?name|node[ _]?name|nodelist|slurmd_nodename|slurm(?:_job)?_nodelist|fqdn|"
        r"server_name)\s*(?:[=:]\s*|\s+(?:is\s+|named\s+)?)['\"]?(?P<x>[\w][\w.\[\],-]*\w\]?)",
        is_host,
    ),
    made("host", rf"{_OPTION}(?:host|node|nodes|machine|hosts){_IS}(?P<x>[A-Za-z][\w.-]*\w)", is_host),
    made("host", r"(?i)\bon (?:host|node|machine) ['\"]?(?P<x>[A-Za-z][\w.-]*\w)", is_host),
    made("host", r"(?<![\w./-])(?P<x>[A-Za-z][\w-]*\d[\w-]*):\d{4,5}(?!\d)", is_host),
    made("user", rf"{_OPTION}(?:user(?:[ _]?name)?|login|owner|logname){_IS}(?P<x>[A-Za-z_][\w.-]*)", _is_person),
    made(
        "user",
        r"(?i)\b(?:submitted|started|launched|owned|run|measured) by (?P<x>[A-Za-z_][\w.-]*\w)",
        lambda text: _is_person(text) and text.lower() not in DOERS,
    ),
    made(
        "account",
        _OPTION + r"(?:account|partition|reservation|qos|project)(?:['\"]?\s*[=:]\s*|\s+)['\"]?"
        r"(?P<x>[A-Za-z][\w.-]*\w)",
        lambda text: bool(re.search(r"[\d_-]", text)),
    ),
    made(
        "account",
        rf"{_OPTION}(?:account|partition|reservation|qos|project)['\"]?\s*=\s*['\"]?(?P<x>[A-Za-z][\w.-]*)",
        lambda text: text.lower() not in WORDS,
    ),
    made("id", rf"(?i)\bslurm_?job_?id{_IS}(?P<x>\d{{3,}})"),
)

KEYS = (
    made("hash", rf"(?P<x>(?<![A-Za-z0-9]){_HEX}{{32,}}(?![A-Za-z0-9]))"),
    made("secret", r"(?P<x>(?<![A-Za-z0-9<])[A-Za-z0-9]{24,}(?![A-Za-z0-9>]))", is_random),
    made("secret", r"(?P<x>(?<![A-Za-z0-9<])[A-Za-z0-9+/_-]{40,}={0,2}(?![A-Za-z0-9>]))", is_random),
)

VALUES = made(
    "value",
    r"(?P<x>(?<![\w$<{-])[A-Z][A-Z0-9_]{2,}=(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s;)]+))",
    _is_value,
)
"""A variable with its value, as commands and logs have them; the value alone goes."""

EVERY = (*SECRETS, *NAMES, *PLACES, *MACHINES, *CONTEXTS, *KEYS)
"""In the order in which they are looked for: the surest first, so that what is left is read without them."""
