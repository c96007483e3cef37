"""Grammars are compiled beside the requests that have none."""

from threading import Event

import pytest
from grammar_threads import MAX_WAITING, NUM_THREADS, GrammarThreads
from llm.errors import OverloadedError


def test_work_is_done_elsewhere_and_what_waits_is_done_before_the_end():
    threads, may_go, done = GrammarThreads(), Event(), []
    for number in range(NUM_THREADS + 3):
        threads.submit(lambda number=number: (may_go.wait(), done.append(number)))
    assert not done
    may_go.set()
    threads.stop()
    assert sorted(done) == list(range(NUM_THREADS + 3))


def test_more_than_may_wait_are_refused_until_some_are_done():
    threads, may_go = GrammarThreads(), Event()
    try:
        for _ in range(MAX_WAITING):
            threads.submit(lambda: may_go.wait() and None)
        with pytest.raises(OverloadedError) as refusal:
            threads.submit(lambda: None)
        assert refusal.value.code == "server_overloaded"
    finally:
        may_go.set()
        threads.stop()


def test_a_place_is_free_again_whatever_became_of_the_work():
    threads, ended = GrammarThreads(), Event()
    for _ in range(MAX_WAITING + 5):
        ended.clear()

        def fail() -> None:
            try:
                raise RuntimeError
            finally:
                ended.set()

        threads.submit(fail)
        assert ended.wait(10)
    threads.stop()
