"""Puts pseudonyms in place of names: the same for the same name, in all files of one copy."""

from __future__ import annotations

import json
import re
from typing import Any

from ratematch.exchange.publish.known import (
    ACCOUNT_KEYS,
    ENVIRONMENT_KEYS,
    HOST_KEYS,
    USER_KEYS,
    Known,
)
from ratematch.exchange.publish.patterns import (
    EVERY,
    LINE_ENDS,
    PSEUDONYM,
    VALUES,
    WHOLE,
    Kind,
    Pattern,
    is_address,
    is_harmless,
    is_host,
    is_path,
)
from ratematch.plan.secret import MASK, is_secret

MOST_PASSES = 4
"""Over a text: what one name hid may be seen without it."""

BARE = ("host", "user", "account", "cluster")
"""Kinds whose pseudonyms stand where a name must be of letters and digits."""

ONE = {"secret": MASK, "email": "<email>", "mac": "<mac>", "pci": "<pci>"}
"""Pseudonyms that do not tell two of a kind apart."""

KEPT_HASHES = frozenset({"sha256", "digest", "git"})
"""Keys whose value is the hash of a file or a commit of ratematch: what figures come from."""

KEPT_VERSIONS = "packages"
"""Key of versions by package; four numbers are no address there."""

VERSION = re.compile(r"\d+(?:\.\d+){1,4}(?:[.+-]?[A-Za-z]{1,5}\d*(?:\.\d+)*)?")

EMPTIED: dict[str, Any] = {
    "about": "", "sbatch": [], "srun": [], "exclude": [], "prologue": None, "account": None, "partition": None,
    "reservation": None, "qos": None, "slurm_job_id": None, "job": None, "mounts": [], "gpu_file": None,
}  # fmt: skip
"""Keys of a site, and words that a person wrote: they go whole, and what figures are does not depend on them."""


class Cleaner:
    """``known``: names that go wherever they stand; ``paths``: by path, what stands for it and everything below."""

    @property
    def counts(self) -> dict[str, int]:
        """How many names of each kind were replaced, each counted once."""
        return {kind: len(names) for kind, names in sorted(self._met.items())}

    def __init__(self, known: Known, paths: dict[str, str]) -> None:
        self._known = known
        self._paths = {path.rstrip("/"): name for path, name in paths.items() if len(path.rstrip("/")) > 1}
        self._numbers: dict[str, dict[str, str]] = {}
        self._met: dict[str, set[str]] = {}
        self._cleaned: dict[str, str] = {}

    def name(self, text: str, kind: Kind) -> str:
        """What stands for ``text``."""
        self._met.setdefault(kind, set()).add(text.lower())
        if kind in ONE:
            return ONE[kind]
        if kind == "path":
            return self._path(text)
        kind = "host" if kind == "address" else kind
        key = text.lower() if kind in BARE else text
        short = key.split(".")[0]
        if kind == "host" and not is_address(text) and not short.isdigit():
            key = short  # a machine's full name and its short one are one machine
        known = self._numbers.setdefault(kind, {})
        if key not in known:
            number = len(known) + 1
            known[key] = f"{kind}-{number}" if kind in BARE else f"<{kind}-{number}>"
        return known[key]

    def _path(self, text: str) -> str:
        bare = text.rstrip("/")
        for path in sorted(self._paths, key=len, reverse=True):
            if bare == path or bare.startswith(f"{path}/"):
                below = bare[len(path) :]
                return self._paths[path] + (f"/{self._number_path(below)}" if below else "")
        home = re.match(r"(?:~[\w.-]*|/(?:home|Users)/[^/]+)(/.+)?$", bare)
        if home is not None:
            return f"<home>/{self._number_path(home[1])}" if home[1] else "<home>"
        return self._number_path(bare)

    def _number_path(self, text: str) -> str:
        known = self._numbers.setdefault("path", {})
        return known.setdefault(text, f"<path-{len(known) + 1}>")

    def text(self, text: str) -> str:
        """``text`` with pseudonyms."""
        known = self._cleaned.get(text)
        if known is not None:
            return known
        given = text
        for _ in range(MOST_PASSES):
            before, text = text, self._once(text)
            if text == before:
                break
        self._cleaned[given] = text
        return text

    def _once(self, text: str) -> str:
        if not text or text.isdigit():
            return text
        for pattern in WHOLE:
            text = self._replaced(pattern, text)
        parts = LINE_ENDS.split(text)
        return "".join(part if LINE_ENDS.fullmatch(part) else self._part(part) for part in parts)

    def _part(self, text: str) -> str:
        for old, new in (*self._known.folders.items(), *self._known.ids.items()):
            if old != new:
                text = text.replace(old, new)
        for path in sorted(self._paths, key=len, reverse=True):
            if path in text:
                text = re.sub(
                    rf"(?<![\w.<>]){re.escape(path)}(?![\w-])(?P<x>/[^\s'\",:;)\]}}<>|&]*)?", self._below(path), text
                )
        for pattern in EVERY[:SURE]:
            text = self._replaced(pattern, text)
        if self._known.pattern is not None:
            text = self._known.pattern.sub(lambda match: self._known_name(match[0]), text)
        for pattern in EVERY[SURE:]:
            text = self._replaced(pattern, text)
        return VALUES.regex.sub(self._assignment, text)

    def _below(self, path: str) -> Any:
        def replace(match: re.Match[str]) -> str:
            return self.name(path + (match["x"] or ""), "path")

        return replace

    def _replaced(self, pattern: Pattern, text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            found = match["x"]
            if not pattern.is_named(found):
                return match[0]
            begin, end = match.start("x") - match.start(), match.end("x") - match.start()
            return match[0][:begin] + self.name(found, pattern.kind) + match[0][end:]

        return pattern.regex.sub(replace, text)

    def _known_name(self, name: str) -> str:
        met = self._known.lowered.get(name.lower(), name)
        return self.name(met, self._known.names[met])

    def _assignment(self, match: re.Match[str]) -> str:
        if not VALUES.is_named(match["x"]):
            return match[0]
        name, _, value = match["x"].partition("=")
        return f"{name}={self.setting(name, value.strip(chr(34) + chr(39)))}"

    def setting(self, name: str, value: str) -> str:
        """The value of a variable of an environment: as it is where it is a number, a switch or a word of the
        software."""
        if is_secret(name, value):
            return MASK
        if is_harmless(value):
            return value
        if value.lower() in self._known.lowered:
            return self._known_name(value)
        cleaned = self.text(value) if value.startswith(("/", "~")) else value
        return cleaned if PSEUDONYM.fullmatch(cleaned) else self.name(value, "value")

    def value(self, content: Any, key: str = "") -> Any:
        """JSON values with pseudonyms, in texts and in keys; numbers stay what they are."""
        match content:
            case dict():
                return {self._key(name): self._below_key(str(name), below) for name, below in content.items()}
            case list() | tuple():
                return [self.value(below, key) for below in content]
            case str():
                return self._at(key, content)
            case _:
                return content

    def _key(self, name: Any) -> Any:
        return self.text(name) if isinstance(name, str) else name

    def _below_key(self, name: str, below: Any) -> Any:
        if name in EMPTIED and below is not None and not _has_parts(below):
            return EMPTIED[name]
        if name in ENVIRONMENT_KEYS and isinstance(below, dict):
            return {
                self._key(var): self.setting(var, val) if isinstance(val, str) else val for var, val in below.items()
            }
        if name == "model_paths" and isinstance(below, dict):
            return {self._key(model): "<model>" for model in below}
        if name == KEPT_VERSIONS and isinstance(below, dict):
            return {
                self._key(package): version if VERSION.fullmatch(str(version)) else self.value(version, package)
                for package, version in below.items()
            }
        return self.value(below, name)

    def _at(self, key: str, text: str) -> str:
        """A text that stands at ``key``."""
        if key == "model_path":
            return "<model>"
        if is_secret(key, text) and key.lower() not in ("key", "keys"):
            return MASK
        if key in KEPT_HASHES and re.fullmatch("[0-9a-f]{7,64}(?:-dirty)?", text):
            return text
        if key in HOST_KEYS and (is_host(text) or is_address(text)):
            return text if PSEUDONYM.fullmatch(text) else self.name(text, "host")
        if key in USER_KEYS or key in ACCOUNT_KEYS:
            return self.name(text, "user" if key in USER_KEYS else "account")
        if re.fullmatch(r"(?:/|~/)[^\n:]*", text) and is_path(text):
            return self.name(text, "path")
        if text.startswith("{") and text.endswith("}"):
            return self._nested(text)
        return self.text(text)

    def _nested(self, text: str) -> str:
        """A JSON object in a text."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return self.text(text)
        cleaned = self.value(content)
        return text if cleaned == content else json.dumps(cleaned)


def _has_parts(content: Any) -> bool:
    """Is it an object, or a list of some? ``exclude`` of a sweep are combinations, that of Slurm names of nodes."""
    return isinstance(content, dict) or (
        isinstance(content, list) and any(isinstance(item, dict) for item in content)
    )


SURE = next(index for index, pattern in enumerate(EVERY) if pattern.kind == "pci") + 1
"""Patterns before this one go before known names: what they match may have a known name in it."""
