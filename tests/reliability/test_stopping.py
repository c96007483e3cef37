"""Proxies come and go under load, and every request that was let in is answered."""

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.launch.launched import Launched
from tests.reliability.conftest import Victim


def test_a_rolling_restart_of_two_proxies_under_load_fails_no_request(victim: Victim, tmp_path: Path) -> None:
    grpc = victim.launch.ports["TRITON_GRPC_PORT"]
    first = victim.launch.ports["OPENAI_PORT"]
    second = Launched(tmp_path, mode="proxy", TAKEOFF_TRITON_URL=f"127.0.0.1:{grpc}")
    stopping = False
    try:
        second.wait_until_it_says("Ctrl-C stops it.")
        ports = [first, second.ports["OPENAI_PORT"]]

        def client(number: int) -> Counter[int]:
            statuses: Counter[int] = Counter()
            while not stopping:
                statuses[_ask_either(ports, number + statuses.total())] += 1
            return statuses

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client, number) for number in range(8)]
            time.sleep(2)
            second.process.send_signal(signal.SIGTERM)
            assert second.exit_code(60) == 0
            time.sleep(2)
            stopping = True
            statuses = sum((client.result() for client in clients), Counter())
    finally:
        stopping = True
        second.end()
    assert set(statuses) == {200}
    assert statuses[200] > 20


def _ask_either(ports: list[int], number: int) -> int:
    """Ask one of the proxies, and the other when the first lets nobody in, as load balancers do."""
    body = {"model": "tiny", "prompt": "Hi", "max_tokens": 20, "ignore_eos": True}
    for port in (ports[number % 2], ports[1 - number % 2]):
        try:
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=60)
        except httpx.TransportError:  # it closed its port before it has looked who is there
            continue
        if answer.status_code != 503:
            return answer.status_code
        assert "is stopping" in answer.text
        assert "retry-after" in answer.headers
    raise AssertionError("nobody lets anyone in")
