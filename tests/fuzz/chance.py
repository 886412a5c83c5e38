"""What inputs of several kinds are made of: values at the edge, and ways to spoil a text line by line."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

NUMBERS = (
    *("0", "-0", "-1", "1", "2", "3", "7", "8", "64", "1000", "99999999", "999999999999", "99999999999999999999"),
    *(
        "1e5",
        "1e-5",
        "1e18",
        "1e308",
        "1.0e+308",
        "1e400",
        "1e-320",
        "1.0e-320",
        "-1e300",
        "0.0",
        "0.5",
        "1.5",
        "5.",
        ".5",
    ),
    *(
        "nan",
        "inf",
        "-inf",
        ".nan",
        ".inf",
        "-.inf",
        "Infinity",
        "1_000",
        "0x10",
        "0o17",
        "017",
        "0b11",
        "1:30",
        "²",
        "１２",
    ),
    *("٣", "9" * 4299, "9" * 5000, "0." + "0" * 5000 + "1", "+5", " 5 ", "5%", "1,2", "4611686018427387904"),
)
TEXTS = (
    *(
        "",
        " ",
        "x",
        "a.b",
        "é",
        "日本",
        "\U0001f680",
        "\x1b[31mX\x1b]0;t\x07",
        "a\nb",
        "a\tb",
        "\x00",
        "\x85",
        "\u202eabc",
    ),
    *(
        "\u2028",
        "\ufeff",
        "\x7f",
        "A" * 300,
        "A" * 20_000,
        "..",
        ".",
        "/",
        "../../x",
        "a/b",
        "-x",
        "--",
        "~",
        "$(id)",
        "`id`",
    ),
    *(
        "'",
        '"',
        "\\",
        "%s",
        "{}",
        "[/]",
        "[red]",
        "{x}",
        "None",
        "null",
        "true",
        "=1+1",
        "@x",
        "normal:1,2",
        "normal:nan,1",
    ),
    *(
        "lognormal:1e400,0",
        "TP8",
        "TP0",
        "TEP4",
        "DEP999999999",
        "TP²",
        "TP99999999999999999999",
        "2xDEP4",
        "0xTP1",
        "1e9xTP1",
    ),
    *(
        "1024/64",
        "0/0",
        "1/",
        "/",
        "²/²",
        "1e9/1e9",
        "gb200",
        "laptop",
        "deepseek-r1",
        "trtllm-serve/1.2",
        "1.2",
        "main",
        "auto",
    ),
)
YAML_VALUES = (
    *(number for number in NUMBERS if "\n" not in number),
    *(
        "",
        "~",
        "null",
        "true",
        "no",
        "[]",
        "{}",
        "[1]",
        "{a: 1}",
        "'x'",
        '"\\u0000"',
        '"\\ud800"',
        '"a\\nb"',
        '"\\e[1m"',
    ),
    *(
        "2024-01-01",
        "2024-13-45",
        "2024-01-01T00:00:00Z",
        "1:30:00",
        "!unchecked 5",
        "!unchecked {}",
        "!unchecked",
        "!x y",
    ),
    *(
        "!!python/object/apply:os.system ['id']",
        "!!binary aGk=",
        "!!binary '***'",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!int x",
    ),
    *(
        "!!float y",
        "!!bool z",
        "!!null z",
        "!!timestamp z",
        "!!str [1]",
        "!!map [1]",
        "!!seq {a: 1}",
        "!<tag:x> y",
        "&a [*a]",
    ),
    *(
        "*nope",
        "&x 1",
        "<<",
        "{<<: {a: 1}}",
        "{? [1, 2] : 3}",
        "{1: 2}",
        "{true: 1}",
        "{~: 1}",
        "=",
        "%",
        "@",
        "`",
        "|",
        "> x",
    ),
    *(
        "[1, [2, [3, [4]]]]",
        "'" + "A" * 10_000 + "'",
        "/etc/passwd",
        "${HOME}",
        "{a: {b: {c: {d: {}}}}}",
        "- 1",
        "1 2",
        "[",
    ),
    *(
        "]",
        "{",
        "}",
        ": :",
        "? ?",
        "---",
        "...",
        "#",
        "TP8",
        "TEP4",
        "TP²",
        "normal:1,2",
        "ep",
        "tp",
        "1.2",
        "日本",
        "é",
    ),
)


def one_of(rng: random.Random, *pools: Sequence[str]) -> str:
    return rng.choice(rng.choice(pools))


def walk(value: Any, most: int | None = None) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON value as (container, key); of each list only the first ``most``."""
    keys = list(value) if isinstance(value, dict) else range(len(value))[:most] if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from walk(value[key], most)


def spoil_lines(rng: random.Random, text: str, keys: Sequence[str], values: Sequence[str]) -> str:
    """``text`` of YAML with some of its lines changed, doubled, moved or taken away."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        lines = rng.choices(_WAYS, _WEIGHTS)[0](rng, lines, at, keys, values)
        text = "\n".join(lines)
    return text


def _other_value(
    rng: random.Random, lines: list[str], at: int, keys: Sequence[str], values: Sequence[str]
) -> list[str]:
    head, colon, _ = lines[at].partition(":")
    return [*lines[:at], f"{head}{colon} {rng.choice(values)}", *lines[at + 1 :]]


def _other_word(
    rng: random.Random, lines: list[str], at: int, keys: Sequence[str], values: Sequence[str]
) -> list[str]:
    words = list(re.finditer(r"[\w.\-]+", lines[at]))
    if not words:
        return lines
    word = rng.choice(words)
    changed = lines[at][: word.start()] + one_of(rng, keys, values) + lines[at][word.end() :]
    return [*lines[:at], changed, *lines[at + 1 :]]


def _new_line(rng: random.Random, lines: list[str], at: int, keys: Sequence[str], values: Sequence[str]) -> list[str]:
    line = " " * rng.choice([0, 2, 4, 6]) + f"{rng.choice(keys)}: {rng.choice(values)}"
    return [*lines[:at], line, *lines[at:]]


def _moved(rng: random.Random, lines: list[str], at: int, keys: Sequence[str], values: Sequence[str]) -> list[str]:
    match rng.randrange(5):
        case 0:
            return [*lines[:at], rng.choice(lines), *lines[at:]]
        case 1:
            return [*lines[:at], *lines[at + 1 :]] or [""]
        case 2:
            return lines[:at] or [""]
        case 3:
            return [*lines[:at], " " * rng.randrange(6) + lines[at], *lines[at + 1 :]]
        case _:
            return [*lines[:at], lines[at].replace("  ", "\t"), *lines[at + 1 :]]


def _odd_character(
    rng: random.Random, lines: list[str], at: int, keys: Sequence[str], values: Sequence[str]
) -> list[str]:
    odd = rng.choice("\x00\x07\t\r\x1b\x85\xa0\u2028\ufeff\ufffe\U0001f600é'\"}][{:,&*!|>%@`#-?")
    place = rng.randrange(len(lines[at]) + 1)
    return [*lines[:at], lines[at][:place] + odd + lines[at][place:], *lines[at + 1 :]]


def _structure(
    rng: random.Random, lines: list[str], at: int, keys: Sequence[str], values: Sequence[str]
) -> list[str]:
    """Depth, aliases of aliases, marks at the end of a line."""
    match rng.randrange(8):
        case 0:
            number = rng.choice([10, 60, 400])
            return [
                *lines[:at],
                rng.choice(["x: " + "[" * number + "]" * number, "x: " + "{a: " * number]),
                *lines[at:],
            ]
        case 1:
            number = rng.choice([10, 60, 200])
            return [*("  " * depth + "a:" for depth in range(number)), *lines]
        case 2:
            bomb = ["b0: &b0 [x, x, x, x, x, x, x, x, x]"]
            bomb += [f"b{k}: &b{k} [{', '.join([f'*b{k - 1}'] * 9)}]" for k in range(1, rng.randrange(3, 30))]
            return [*bomb, *lines]
        case _:
            mark = rng.choice([" &a", " *a", " !unchecked", " !!str", " !x"])
            return [*lines[:at], lines[at] + mark, *lines[at + 1 :]]


_WAYS: tuple[Callable[..., list[str]], ...] = (
    _other_value,
    _other_word,
    _new_line,
    _moved,
    _odd_character,
    _structure,
)
_WEIGHTS = (35, 20, 10, 20, 8, 7)
