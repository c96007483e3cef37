"""Whatever dies, its clients are told within seconds, and it comes back without anyone acting."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.reliability.conftest import PASS_TIMEOUT, Victim, error_of


def test_a_killed_model_fails_its_requests_in_5_seconds_and_heals_while_others_go_on(victim: Victim) -> None:
    victim.wait_until_it_serves()
    before = victim.ask().json()["choices"][0]["text"]
    with ThreadPoolExecutor(16) as pool:
        streams = [pool.submit(victim.stream) for _ in range(4)]
        wholes = [pool.submit(victim.ask, max_tokens=1000, ignore_eos=True) for _ in range(4)]
        time.sleep(3)
        assert not any(future.done() for future in [*streams, *wholes])
        os.kill(victim.stub("primary"), signal.SIGKILL)
        killed = time.monotonic()
        others = []
        while not all(future.done() for future in [*streams, *wholes]):
            others.append(victim.ask("tiny").status_code)
            assert time.monotonic() - killed < 5
        others += [victim.ask("tiny").status_code for _ in range(20)]
    for status, events in (future.result() for future in streams):
        assert status in (200, 503)  # the latter where nothing had been said yet
        assert "is not available" in error_of(events[-1])["message"]
    for answer in (future.result() for future in wholes):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    refused = victim.ask(timeout=5)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert set(others) == {200}
    victim.wait_until_it_serves()
    assert victim.ask().json()["choices"][0]["text"] == before


def test_a_model_that_hangs_is_replaced_after_the_bound(victim: Victim) -> None:
    pid = victim.stub("tiny")
    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        caught = pool.submit(victim.ask, "tiny", timeout=3 * PASS_TIMEOUT)
        assert caught.result().status_code == 503
    assert time.monotonic() - stopped < PASS_TIMEOUT + 15
    victim.wait_until_it_serves("tiny")
    assert victim.stub("tiny") != pid


def test_a_model_that_stands_still_for_a_while_serves_again(victim: Victim) -> None:
    """A process that is stopped while it holds a lock that it shares with Triton makes Triton abort."""
    pid = victim.stub("tiny")
    os.kill(pid, signal.SIGSTOP)
    time.sleep(PASS_TIMEOUT / 4)
    os.kill(pid, signal.SIGCONT)
    victim.wait_until_it_serves("tiny")


def test_a_killed_triton_comes_back_with_every_group(victim: Victim) -> None:
    [triton] = victim.launch.processes("bin/tritonserver")
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(victim.stream)
        time.sleep(2)
        os.kill(triton, signal.SIGKILL)
        killed = time.monotonic()
        _, events = stream.result()
        assert time.monotonic() - killed < 5
        assert error_of(events[-1])["type"] == "server_error"
    assert victim.ask().status_code == 503
    victim.wait_until_it_serves("primary")
    victim.wait_until_it_serves("tiny")


def test_a_killed_proxy_worker_takes_nothing_but_its_own_connections_along(victim: Victim) -> None:
    main, workers = victim.proxy()
    os.kill(workers[0], signal.SIGKILL)
    for _ in range(20):
        assert _ask_as_sdks_do(victim).status_code == 200
    assert victim.proxy()[0] == main


def test_a_killed_proxy_comes_back(victim: Victim) -> None:
    main, _ = victim.proxy()
    os.kill(main, signal.SIGKILL)
    assert victim.wait_until_it_serves(seconds=30) < 30
    victim.launch.wait_until_it_says("The proxy ended and is started again: it was ended by SIGKILL")


def test_a_killed_keeper_comes_back(victim: Victim) -> None:
    [keeper] = victim.launch.processes("-m\0keeper")
    os.kill(keeper, signal.SIGKILL)
    victim.launch.wait_until_it_says("The keeper ended and is started again")
    assert victim.ask().status_code == 200


def _ask_as_sdks_do(victim: Victim) -> httpx.Response:
    """With OpenAI's retry of a connection that broke before an answer."""
    try:
        return victim.ask("tiny")
    except httpx.TransportError:
        return victim.ask("tiny")
