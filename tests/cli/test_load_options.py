"""Every option of ``ratematch load`` is bounded and finite; what is not is one line, never an unexpected error."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from ratematch.cli import main

HERE = "http://127.0.0.1:9"


def refused(*argv: str, key: str | None = None) -> str:
    env = {"THE_KEY": key} if key is not None else {}
    result: Result = CliRunner().invoke(main, ["load", *argv], catch_exceptions=False, env=env)
    said = result.stderr.strip()
    assert result.exit_code == 1, said
    assert "unexpected" not in said and "Traceback" not in said
    return said.splitlines()[-1]


ODD = ["nan", "inf", "-inf", "-1", "1e400", "x"]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    "option",
    [
        *("--duration", "--stagger", "--think-time", "--timeout", "--burstiness", "--ramp-to"),
        *("--isl-ratio", "--osl-ratio", "--prefix-share"),
    ],
)
def test_numbers_of_time_and_share_are_finite(option: str, value: str) -> None:
    assert option in refused(HERE, "--model", "m", "--concurrency", "1", option, value)


@pytest.mark.parametrize("value", ["-1", "1e21", "10000000000000", "nan", "²", "9" * 5000])
@pytest.mark.parametrize(
    "option",
    [
        *("--num-requests", "--warmup", "--isl", "--osl", "--prefix-groups", "--turns", "--max-in-flight"),
        *("--processes", "--vocab-size", "--hash-block"),
    ],
)
def test_counts_are_whole_numbers_that_can_be_meant(option: str, value: str) -> None:
    assert option in refused(HERE, "--model", "m", "--concurrency", "1", option, value)


@pytest.mark.parametrize("value", ["-1", "1.5", "nan", "99999999999999999999999"])
def test_seeds_are_whole_numbers(value: str) -> None:
    assert "--seed" in refused(HERE, "--model", "m", "--concurrency", "1", "--seed", value)


@pytest.mark.parametrize("value", ["inf", "INF", "Infinity", "1e400", "2,inf"])
def test_an_endless_rate_is_a_closed_loop_by_another_name(value: str) -> None:
    said = refused(HERE, "--model", "m", "--request-rate", value, "--num-requests", "4")
    assert "--concurrency N" in said and "burst" in said


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--request-rate", value) for value in ("nan", "0", "-1", "1e-300", "1e300", "a", ",", "1;2", "1" * 400)),
        *(("--concurrency", value) for value in ("nan", "inf", "0", "-4", "1.5", "10000000", "²", "1," * 2000, ",")),
        *(("--replay", value) for value in ("nan", "inf", "0", "1e300")),
    ],
)
def test_ladders_of_numbers_that_nothing_can_send(option: str, value: str) -> None:
    assert refused(HERE, "--model", "m", option, value).startswith(f"ratematch: {option}")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--extra-body", '{"a":' * 5000 + "1" + "}" * 5000), "--extra-body: is nested too deep"),
        (("--extra-body", '{"a": NaN}'), "--extra-body: no JSON"),
        (("--extra-body", '{"a": "\\ud800"}'), "--extra-body: holds half of a surrogate pair"),
        (("--extra-body", "7"), "--extra-body: give a JSON object"),
        (("--isl-spread", "normal:1e999,5"), "--isl-spread"),
        (("--isl-spread", "lognormal:5,1e308"), "--isl-spread"),
        (("--osl-spread", "lognormal:1e-300,1"), "--osl-spread"),
        (("--target-ci", "nan"), "--target-ci"),
        (("--goodput", "ttft<=" + "9" * 400), "--goodput"),
        (("--num-requests", "1000000000", "--isl", "100000"), "GB for their prompts alone"),
        (("--dataset", "/dev/zero"), "/dev/zero: is no regular file"),
        (("--dataset", "/etc"), "/etc: is no regular file"),
        (("--dataset", "no/such"), "no/such: cannot be read"),
        (("--dataset", "a\0b"), "--dataset: holds a NUL byte"),
        (("--text", "/dev/zero", "--tokenizer", "/no"), "/no: no tokenizer here"),
        (("--server-metrics", "file:///etc/hostname"), "--server-metrics 'file:///etc/hostname': not of the form"),
        (
            ("--server-metrics", "http://h:99999/metrics"),
            "--server-metrics 'http://h:99999/metrics': not of the form",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_other_options(argv: tuple[str, ...], says: str) -> None:
    assert says in refused(HERE, "--model", "m", "--concurrency", "1", *argv)


@pytest.mark.parametrize("key", ["pay 5 €", "a\nb", " lead"])
def test_keys_that_no_header_takes_are_refused_and_not_shown(key: str) -> None:
    said = refused(HERE, "--model", "m", "--concurrency", "1", "--api-key-env", "THE_KEY", key=key)
    assert said == "ratematch: --api-key-env THE_KEY: that key holds characters which no header takes"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://h:99999",
            "http://h:abc",
            "http://[::1",
            "http://a..b",
            "http://h:-1",
            "http://h:0",
            "http://",
            "ftp://h",
        ),
        *(
            "http://h h:80",
            "http://h:80\n",
            "http://" + "a" * 300,
            "h:99999",
            "http://:80",
            "http://[zz]:80",
            "http://h:8 0",
        ),
        *("http://\ud800:80", "http://h/\u20ac"),
    ],
)
def test_urls_that_cannot_be_are_refused_on_one_line(url: str) -> None:
    assert "not of the form http://host:port" in refused(url, "--model", "m", "--concurrency", "1")
