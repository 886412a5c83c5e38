"""Secrets in the environment of servers: which variables hold one, and text without their values.

A sweep or profile that gives a secret is read into a plan without it: the value of the variable becomes
:data:`MASK`, and the value itself is kept apart (:class:`Secrets`), out of everything that is written, hashed or
printed. It is put into the environment of a process when that is started, and nowhere else.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:  # reading YAML takes a tenth of a second to import: who masks what is written does without
    from ratematch.plan.located import Located, Path

CUT = 6
"""So many first characters of a secret at the end of a text are what is left of it."""

MASK = "***"
"""In place of a secret. As the value of a variable: taken from the environment where the servers are started."""

FROM_ENVIRONMENT = "env:"
"""``!secret env:NAME``: the value of ``NAME`` where the sweep is started."""

SHORTEST, WHOLE_WORD = 4, 8
"""A shorter secret cannot be told from other text; one below ``WHOLE_WORD`` characters is masked as a word only."""

ALWAYS = re.compile("(SECRET|CREDENTIAL)S?|\\w*PASSWORDS?|\\w*PASSWD|PASSPHRASE|PASSCODE|CREDS|APIKEY")
MOSTLY = re.compile("\\w*TOKEN|KEYS?|AUTH|AUTHORIZATION|BEARER|PWD|PAT|JWT|COOKIE")
FILES = re.compile("CREDENTIALS?|CREDS")
PLACES = re.compile("PATH|FILE|DIR|FOLDER|SOCK|SOCKET")
NO_SECRET = re.compile(
    "LIMIT|MAX|MIN|NUM|COUNT|SIZE|LEN|LENGTH|BUDGET|PER|RANK|RATE|TYPE|MODE|METHOD|ENABLED?|DISABLED?|USE|"
    "EOS|BOS|PAD|STOP|PUBLIC|DTYPE|BLOCK|HASH|TIMEOUT|TTL|HEADER|PORT"
)
"""Beside a word of ``MOSTLY``: an amount, a kind, a switch, or something that anybody may know."""

SWITCHES = re.compile("true|false|yes|no|on|off|none|auto|default|[+-]?[0-9.]{1,6}", re.IGNORECASE)


def is_secret(name: str, value: str) -> bool:
    """Does the variable ``name`` hold a secret?

    By whole words of its name (``HF_TOKEN``, ``OPENAI_API_KEY``, ``dbPassword``; not ``TOKENIZERS_PARALLELISM``).
    Names with a word of a place or an amount (``HF_TOKEN_PATH``, ``TOKEN_LIMIT``) hold none, nor does a variable of a
    token, key or login whose value is a number of up to six digits or a switch.
    """
    if value == MASK:
        return True
    if not value or name in ("PWD", "OLDPWD"):
        return False
    words = [word.upper() for word in re.split(r"[^A-Za-z0-9]+", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name))]
    has = {kind: any(map(kind.fullmatch, words)) for kind in (ALWAYS, MOSTLY, PLACES, NO_SECRET)}
    if has[PLACES] or (any(map(FILES.fullmatch, words)) and value.startswith(("/", "~"))):
        return False
    return has[ALWAYS] or (has[MOSTLY] and not has[NO_SECRET] and not SWITCHES.fullmatch(value))


def masked(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` with :data:`MASK` for every secret."""
    return {name: MASK if is_secret(name, value) else value for name, value in environment.items()}


def secret_names(environment: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Variables whose value is kept apart."""
    return tuple(dict.fromkeys(name for name, value in environment if value == MASK))


@dataclass(frozen=True)
class Secrets:
    """Where each secret variable has its value from: the value itself, or, after ``env:``, a variable of whoever
    starts the sweep. ``given``: by variable; shown by name only."""

    given: Mapping[str, str] = field(default_factory=dict, repr=False)
    tagged: frozenset[str] = frozenset()
    """Variables whose value begins with ``env:`` and means so."""

    def __or__(self, other: Secrets) -> Secrets:
        return Secrets({**self.given, **other.given}, (self.tagged - other.given.keys()) | other.tagged)

    def __bool__(self) -> bool:
        return bool(self.given)

    def values(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The values, those of ``env:`` from ``environment``; what is not there is left out."""
        found = {}
        for name, value in self.given.items():
            read = environment.get(value.removeprefix(FROM_ENVIRONMENT)) if name in self.tagged else value
            if read:
                found[name] = read
        return found

    def source(self, name: str) -> str:
        """The variable that has the value of ``name`` where the sweep is started."""
        return self.given[name].removeprefix(FROM_ENVIRONMENT) if name in self.tagged else name


def refuse_value(value: str) -> str | None:
    """Why a value cannot be a secret, without the value; ``None`` when it can."""
    if len(value) < SHORTEST:
        return f"a secret has at least {SHORTEST} characters: a shorter one cannot be masked in what is written"
    if any(not character.isprintable() for character in value):
        return "a secret is one line of printable characters"
    return None


def take_secrets(located: Located, environments: Sequence[Path]) -> Secrets:
    """The secrets among the ``environments`` of a document, whose values are :data:`MASK` there afterwards.

    Notes a problem where ``!secret`` stands elsewhere, and where a variable has two values.
    """
    given: dict[str, str] = {}
    tagged: set[str] = set()
    for place in environments:
        environment = _look_up(located.data, place)
        if not isinstance(environment, dict):
            continue
        for name, value in environment.items():
            path = (*place, name)
            marked = any(path[:length] in located.secret for length in range(len(place), len(path) + 1))
            if not marked and not is_secret(name, str(value)):
                continue
            environment[name] = MASK
            source = _read_source(located, path, value, marked)
            if source is None:
                continue
            if given.setdefault(name, source) != source:
                located.add(path, f"{name} has another value above", "a secret has one value in a file")
            if source.startswith(FROM_ENVIRONMENT) and (marked or value == MASK):
                tagged.add(name)
    for path in located.secret:
        if not any(path[: len(place)] == place for place in environments):
            _hide(located.data, path)
            located.add(path, "only the value of an environment variable can be a secret", "put it into environment:")
    return Secrets(given, frozenset(tagged))


ELSEWHERE = "an argument, which everybody on the machine can list"
INSTEAD = (
    "set it under environment: (servers read HF_TOKEN, VLLM_API_KEY, ...), or leave it out: keys among the servers "
    "of a deployment (internal_request_auth_key) are made at each start"
)


def refuse_secret_options(located: Located, places: Sequence[Path]) -> None:
    """Note options below ``places`` that look like secrets: they would be arguments or lie in files. Those marked
    ``!unchecked`` are none."""
    for place in places:
        for path, value in _leaves(_look_up(located.data, place), place):
            checked = not any(path[:length] in located.unchecked for length in range(len(path) + 1))
            if checked and isinstance(value, str) and is_secret(str(path[-1]).replace(".", "_"), value):
                _hide(located.data, path)
                located.add(path, f"a secret would be {ELSEWHERE}", INSTEAD)


def refuse_secret_words(located: Located, places: Sequence[Path]) -> None:
    """Note words of commands at ``places`` that look like secrets: ``--api-key x``, ``--api-key=x``, ``TOKEN=x``."""
    for place in places:
        words = _look_up(located.data, place)
        if not isinstance(words, list):
            continue
        for index, word in enumerate(words):
            before = words[index - 1] if index else ""
            pairs = [(name, value) for name, _, value in (part.partition("=") for part in str(word).split(","))]
            if str(before).startswith("--") and "=" not in before and not str(word).startswith("-"):
                pairs.append((before, str(word)))
            if any(is_secret(name, value) for name, value in [*pairs, _assigned(str(word))]):
                words[index] = MASK
                located.add((*place, index), f"a secret would be {ELSEWHERE}", INSTEAD)


def _assigned(word: str) -> tuple[str, str]:
    """``--export=ALL,A=b``'s first assignment is behind the second sign."""
    _, _, rest = word.partition("=")
    name, _, value = rest.partition("=")
    return name, value


def _leaves(data: object, path: Path) -> Iterator[tuple[Path, object]]:
    match data:
        case dict():
            for key, value in data.items():
                yield from _leaves(value, (*path, key))
        case list():
            for index, value in enumerate(data):
                for below, leaf in _leaves(value, (*path, index)):
                    # Of several values of one option, the name is the option's.
                    yield (path, leaf) if below == (*path, index) else (below, leaf)
        case _:
            yield path, data


def _read_source(located: Located, path: Path, value: object, marked: bool) -> str | None:
    if value == MASK:
        return f"{FROM_ENVIRONMENT}{path[-1]}"
    if not isinstance(value, str):
        located.add(path, "a secret must be text", "put it in quotes")
        return None
    if marked and value.startswith(FROM_ENVIRONMENT):
        if not re.fullmatch(r"[A-Za-z_]\w*", value.removeprefix(FROM_ENVIRONMENT)):
            located.add(path, "!secret env: names no variable", "write !secret env:NAME")
            return None
        return value
    if why := refuse_value(value):
        located.add(path, why)
        return None
    return value


def _look_up(data: object, path: Path) -> object:
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _hide(data: object, path: Path) -> None:
    """So that no message about the document shows it."""
    holder = _look_up(data, path[:-1])
    if path and isinstance(holder, (dict, list)):
        holder[path[-1]] = MASK  # type: ignore[index]


@dataclass(frozen=True)
class Masker:
    """Text without secrets: each of ``values`` becomes :data:`MASK`, as it is and as JSON, URLs and Basic
    authentication spell it."""

    values: tuple[str, ...] = field(default=(), repr=False)

    def text(self, text: str) -> str:
        """``text`` without them, nor the beginning of one that was cut off at its end."""
        if not self.values:
            return text
        text = self._pattern.sub(MASK, text)
        cut = self._length_of_cut(text)
        return text[: len(text) - cut] + MASK if cut else text

    def data(self, data: bytes) -> bytes:
        """The same of bytes."""
        return self._bytes_pattern.sub(MASK.encode(), data) if self.values else data

    def lines(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """A stream that comes in ``chunks``, each secret masked though it came in parts.

        What stands after the last end of a line is held back as far as it may be the beginning of a secret.
        """
        rest = b""
        for chunk in chunks:
            rest += chunk
            keep = self._held_back(rest)
            if len(rest) > keep:
                whole, rest = rest[: len(rest) - keep], rest[len(rest) - keep :]
                yield self.data(whole)
        if rest:
            yield self.data(rest)

    def _held_back(self, data: bytes) -> int:
        """How many bytes at the end may be a part of a secret."""
        tail = data[max(data.rfind(b"\n"), data.rfind(b"\r")) + 1 :]
        for length in range(min(len(tail), self._longest), 0, -1):
            end = tail[len(tail) - length :]
            if any(spelling.startswith(end) for spelling in self._spellings_as_bytes):
                return length
        return 0

    def _length_of_cut(self, text: str) -> int:
        for length in range(min(len(text), len(self._spellings[0])), CUT - 1, -1):
            end = text[len(text) - length :]
            if any(spelling.startswith(end) for spelling in self._spellings):
                return length
        return 0

    @cached_property
    def _spellings(self) -> tuple[str, ...]:
        spellings = {spelling for value in self.values for spelling in _spell(value)}
        return tuple(sorted(spellings, key=lambda spelling: (-len(spelling), spelling)))

    @cached_property
    def _spellings_as_bytes(self) -> tuple[bytes, ...]:
        return tuple(spelling.encode() for spelling in self._spellings)

    @cached_property
    def _longest(self) -> int:
        return max((len(spelling) for spelling in self._spellings_as_bytes), default=0)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(_pattern, self._spellings)))

    @cached_property
    def _bytes_pattern(self) -> re.Pattern[bytes]:
        return re.compile("|".join(map(_pattern, self._spellings)).encode())


def _spell(value: str) -> Iterator[str]:
    yield value
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield repr(value)[1:-1]
    yield quote(value, safe="")
    yield base64.b64encode(value.encode()).decode()


def _pattern(spelling: str) -> str:
    text = re.escape(spelling)
    return text if len(spelling) >= WHOLE_WORD else rf"(?<![A-Za-z0-9]){text}(?![A-Za-z0-9])"
