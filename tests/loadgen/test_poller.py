"""One reader an address, whoever wants its answers; a refresh is an answer that was asked for after it began."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ratematch.loadgen.poller import Poller, Subscription
from tests.support.processes import wait_until


class Answers:
    """Numbers its answers from 1; holds them back while ``gate`` is closed, answers 500 while ``broken``."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False


@contextmanager
def numbered() -> Iterator[tuple[str, Answers]]:
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.count += 1
            number = answers.count
            answers.gate.wait(30)
            self.send_response(500 if answers.broken else 200)
            self.end_headers()
            self.wfile.write(b"%d" % number)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/metrics", answers
        finally:
            answers.gate.set()
            server.shutdown()
            thread.join()


class Kept:
    """A subscriber that keeps the numbers of its answers, and refuses those in ``refused``."""

    def __init__(self, url: str, period_s: float, refused: tuple[int, ...] = (), holds_back: bool = False) -> None:
        self.numbers: list[int] = []
        self.refused = refused
        self.subscription = Subscription(url, self.take, period_s, holds_back=holds_back)

    def take(self, body: bytes, read_ns: int) -> None:
        if int(body) in self.refused or self.refused == (0,):
            raise ValueError("not what was expected")
        self.numbers.append(int(body))


def test_an_address_has_one_reader_and_each_subscriber_its_own_period() -> None:
    with numbered() as (url, answers):
        often, seldom = Kept(url, 0.02), Kept(url, 30.0)
        with Poller([often.subscription, seldom.subscription]):
            wait_until(lambda: len(often.numbers) >= 4, "four answers", 10)
        assert often.numbers == list(range(1, len(often.numbers) + 1)), "no answer went to anybody else"
        assert answers.count - len(often.numbers) <= 1
        assert seldom.numbers == [1]


def test_a_refresh_reads_for_everybody_and_waits_for_the_answer() -> None:
    with numbered() as (url, _):
        first, second = Kept(url, 30.0), Kept(url, 30.0)
        with Poller([first.subscription, second.subscription]) as poller:
            wait_until(lambda: first.numbers == [1], "the first answer", 10)
            poller.refresh()
            assert first.numbers == second.numbers == [1, 2]


def test_an_answer_from_before_a_refresh_does_not_count() -> None:
    with numbered() as (url, answers):
        answers.gate.clear()
        kept = Kept(url, 30.0)
        with Poller([kept.subscription]) as poller:
            wait_until(lambda: answers.count == 1, "the first read", 10)
            threading.Timer(0.2, answers.gate.set).start()
            poller.refresh()
            assert kept.numbers == [1, 2]


def test_a_refresh_does_not_wait_for_a_route_that_holds_its_answer_back() -> None:
    with numbered() as (url, answers):
        answers.gate.clear()
        kept = Kept(url, 20.0, holds_back=True)
        with Poller([kept.subscription]) as poller:
            began = time.monotonic()
            poller.refresh()
            assert time.monotonic() - began < 10 and kept.numbers == []


def test_a_subscriber_that_cannot_read_the_answers_takes_them_from_nobody() -> None:
    with numbered() as (url, _):
        wrong, right = Kept(url, 0.01, refused=(0,)), Kept(url, 0.01)
        with Poller([wrong.subscription, right.subscription]):
            wait_until(lambda: wrong.subscription.gone and len(right.numbers) > 5, "it to be left alone", 10)
        assert wrong.subscription.problems == ["not what was expected"] and not right.subscription.gone


def test_an_address_that_was_left_alone_is_tried_again_by_a_refresh() -> None:
    with numbered() as (url, answers):
        answers.broken = True
        kept = Kept(url, 0.01)
        with Poller([kept.subscription]) as poller:
            wait_until(lambda: kept.subscription.gone, "it to be left alone", 10)
            count = answers.count
            time.sleep(0.1)
            assert answers.count == count
            answers.broken = False
            poller.refresh()
            wait_until(lambda: bool(kept.numbers), "it to be back", 10)
            assert not kept.subscription.gone and kept.subscription.problem is None
            assert len(kept.subscription.problems) == 1 and "500" in kept.subscription.problems[0]
