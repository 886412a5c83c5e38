"""The text of a data set or trace to its requests. Each format's reader is in a module of its family."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ratematch.plan.dataset.blocks import find_block
from ratematch.plan.dataset.chats import read_batch, read_messages, read_sharegpt, read_trtllm_custom
from ratematch.plan.dataset.entry import Dataset, DatasetError, Entry, Format, Reading, TimeUnit
from ratematch.plan.dataset.fields import IDS, TEXTS, Item, given, short, short_name, unread_lengths
from ratematch.plan.dataset.lines import read_line
from ratematch.plan.dataset.sessions import read_session, read_turns
from ratematch.plan.dataset.timing import TAKEN_FOR_MS, guess_unit
from ratematch.plan.nesting import nests_too_deep

_BY_CONTENT: tuple[tuple[str, Callable[[Item], Reading]], ...] = (
    ("conversations", read_sharegpt),
    ("conversation", read_sharegpt),
    ("turns", read_turns),
    ("requests", read_session),
    ("body", read_batch),
    ("payload", read_batch),
    ("input", read_trtllm_custom),
    ("messages", read_messages),
)
"""Which reader takes an item with such a field; everything else is a line of its own (:func:`read_line`)."""

_SAME_FAMILY: tuple[frozenset[Format], ...] = (
    frozenset({"prompt lines", "trtllm-bench lines"}),
    frozenset({"Mooncake trace", "lengths"}),
)
"""Formats whose lines may stand in one file: they say the same with more fields or fewer."""


def parse_dataset(text: str, time_unit: TimeUnit | None = None, block: int = 0) -> Dataset:
    """The requests of a file, in its order.

    ``time_unit``: of its timestamps and delays; ``None`` = what the file says, or what cannot be otherwise.
    ``block``: tokens of one of ``hash_ids``; 0 = what agrees with all lines.

    Raises:
        DatasetError: not one of the formats, or not one alone; the message names the line.
    """
    where, items = _split(text)
    collected = _Collected(where)
    for line, item in items:
        try:
            collected.add(line, item, _read_item(item))
        except DatasetError:
            raise
        except RecursionError:
            raise DatasetError("is nested too deep", line, where) from None
        except ValueError as problem:
            raise DatasetError(str(problem), line, where) from problem
    return collected.finish(time_unit, block)


def _split(text: str) -> tuple[str, Iterator[tuple[int, object]]]:
    """What the items are counted by, and each with its number."""
    text = text.removeprefix("\ufeff")
    if text.lstrip().startswith("["):
        return "item", iter(enumerate(_whole_text(text, "list"), 1))
    first = next((line for line in text.split("\n") if line.strip()), "")
    if first.lstrip().startswith("{") and not _is_json(first):
        content = _whole_text(text, "object") if first.strip() == "{" or _is_json(text) else None
        if content is not None:
            return "item", iter(enumerate(content, 1))
    return "line", _lines(text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _whole_text(text: str, kind: str) -> list[object]:
    """The items of one JSON value: a list, an object whose ``data`` is a list, or an object that is one item."""
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as problem:
        said = "is nested too deep" if nests_too_deep(text) else f"no JSON {kind}: {problem}"
        raise DatasetError(said) from problem
    if isinstance(content, dict):
        content = content["data"] if isinstance(content.get("data"), list) else [content]
    if not isinstance(content, list):
        raise DatasetError(f"no JSON {kind}")
    return content


def _lines(text: str) -> Iterator[tuple[int, object]]:
    """Lines end at line feeds alone: texts of other scripts hold what Python takes for further ends of lines."""
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            item = json.loads(content, parse_constant=_refuse_constant)
        except RecursionError:
            raise DatasetError("is nested too deep", line) from None
        except ValueError as problem:
            table = line == 1 and "," in content and not content.lstrip().startswith(("{", '"'))
            hint = " (a table? write each row as a JSON object on a line of its own)" if table else ""
            raise DatasetError(f"no JSON: {problem}{hint}", line) from problem
        if isinstance(item, dict) and set(item) == {"data"} and isinstance(item["data"], list):
            yield from ((line, inside) for inside in item["data"])
        else:
            yield line, item


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _read_item(item: object) -> Reading:
    if not isinstance(item, dict):
        raise ValueError(f"is {short(item)}, not an object")
    if not item:
        raise ValueError("is an object without fields")
    contents = [name for name, _ in _BY_CONTENT if item.get(name) is not None]
    if len(contents) > 1:
        raise ValueError(f"has both {contents[0]} and {contents[1]}: which of them is the prompt?")
    for name, read in _BY_CONTENT:
        if item.get(name) is not None:
            if more := given(item, (*TEXTS, *IDS)):
                raise ValueError(f"has both {name} and {more[0]}: which of them is the prompt?")
            return read(item)
    return read_line(item)


@dataclass
class _Collected:
    """What was read so far of a file, whose items must agree."""

    where: str
    entries: list[Entry] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    formats: dict[Format, int] = field(default_factory=dict)
    units: dict[TimeUnit, int] = field(default_factory=dict)
    blocks: dict[int, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def add(self, line: int, item: object, reading: Reading) -> None:
        """Raises DatasetError: it is of another format, or says another unit or block than those before it."""
        self.formats.setdefault(reading.format, line)
        self._refuse_mixture(line, reading.format)
        if reading.time_unit is not None:
            self.units.setdefault(reading.time_unit, line)
        if reading.block:
            self.blocks.setdefault(reading.block, line)
        for what, values in (("units of time", self.units), ("block lengths", self.blocks)):
            if len(values) > 1:
                (first, begun), (other, _) = list(values.items())[:2]
                raise DatasetError(f"has {other}, and {self.where} {begun} has {first}: two {what}", line, self.where)
        if reading.left_out:
            self.left_out[reading.left_out] += reading.num_left_out
        self.notes += [note for note in reading.notes if note not in self.notes]
        self.entries += reading.entries
        self.numbers += [line] * len(reading.entries)
        if isinstance(item, dict):
            self.unread.update(unread_lengths(item))

    def _refuse_mixture(self, line: int, kind: Format) -> None:
        first, begun = next(iter(self.formats.items()))
        if kind != first and not any({kind, first} <= family for family in _SAME_FAMILY):
            raise DatasetError(
                f"is of {kind}, and {self.where} {begun} of {first}: one format a file", line, self.where
            )

    def finish(self, time_unit: TimeUnit | None, block: int) -> Dataset:
        """The whole file. Raises DatasetError: no request is left, or lines contradict each other."""
        if not self.entries:
            why = "; ".join(f"{count} {why}" for why, count in self.left_out.items())
            raise DatasetError(f"holds no request{f' ({why})' if why else ''}")
        self._refuse_two_apis()
        said, by = (block, "--hash-block or hash_block") if block else (next(iter(self.blocks), 0), "by the file")
        try:
            length, note = find_block(self.entries, self.numbers, said, by)
        except DatasetError as problem:
            raise DatasetError(problem.what, problem.line, self.where) from None
        unit = time_unit or next(iter(self.units), None)
        if unit is None:
            unit, why = guess_unit(self.entries)
            if unit and len({entry.at for entry in self.entries}) > 1:
                self.notes.append(TAKEN_FOR_MS)
        else:
            why = ""
        if unit is None and any(entry.delay for entry in self.entries):
            raise DatasetError(f"delays between turns in an unknown unit: {why}; say --time-unit s or ms")
        entries, notes = self._in_order_of_time()
        notes += [note] if note else []
        return Dataset(self._format(), entries, unit, why, length, (*notes, *self._notes()))

    def _refuse_two_apis(self) -> None:
        """A load sends to one address; batch lines name theirs, one by one."""
        chats = [entry.chat is not None for entry in self.entries]
        if self._format() == "OpenAI batch" and len(set(chats)) > 1:
            line = next(number for number, chat in zip(self.numbers, chats, strict=True) if chat != chats[0])
            raise DatasetError("goes to another API than the first request: one a file", line, self.where)

    def _format(self) -> Format:
        """The most telling one of a family."""
        telling: tuple[Format, ...] = ("trtllm-bench lines", "Mooncake trace")
        return next((kind for kind in telling if kind in self.formats), next(iter(self.formats)))

    def _in_order_of_time(self) -> tuple[Sequence[Entry], list[str]]:
        instants = [entry.at for entry in self.entries if entry.at is not None]
        if len(instants) < len(self.entries) or instants == sorted(instants):
            return self.entries, []
        ordered = sorted(self.entries, key=lambda entry: entry.at or 0)
        return ordered, ["its lines are not in the order of their timestamps; requests are"]

    def _notes(self) -> Iterator[str]:
        for why, count in self.left_out.items():
            yield f"{count} requests {why} and are left out"
        yield from self.notes
        for name, count in self.unread.most_common(3):
            yield f"{short_name(name)} looks like a length and is not read ({count} {self.where}s)"
        without = sum(entry.osl is None for entry in self.entries)
        if without:
            whose = "no request says" if without == len(self.entries) else f"{without} requests do not say"
            yield f"{whose} how many tokens to answer with: OSL is sent"
        guessed = sum(entry.answer is not None for entry in self.entries)
        if guessed:
            yield "output lengths are those of the recorded answers"
