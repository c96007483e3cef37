"""Several serving processes behind the same listening sockets, and the process that looks after them.

Sanic's own worker manager keeps its socket open while its workers finish, so that new clients hang, and
answers a second signal with SIGKILL for the whole process group, launch script and Triton included.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import cast

from prometheus_client import Counter
from prometheus_client.multiprocess import mark_process_dead

from proxy.config import ProxyConfig
from proxy.process import serve

_log = logging.getLogger(__name__)

# Between a worker's death and its successor's birth, so that one that cannot start does not burn a core.
_PAUSE_SECONDS = 1.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def supervise(config: ProxyConfig, listeners: Sequence[socket.socket]) -> int:
    """Run `config.workers` processes until SIGTERM; replace one that dies; return the exit status."""
    supervisor = _Supervisor(config, listeners)
    signal.signal(signal.SIGTERM, supervisor.stop)
    signal.signal(signal.SIGINT, supervisor.stop)
    return supervisor.run()


def restarts() -> Counter:
    """Counts processes that died. The supervisor's alone; the processes show it with what they count."""
    return Counter("slipstream_proxy_worker_restarts_total", "Proxy processes that died", registry=None)


class _Supervisor:
    def __init__(self, config: ProxyConfig, listeners: Sequence[socket.socket]) -> None:
        self._config = config
        self._listeners = listeners
        self._workers: dict[int, BaseProcess] = {}
        self._stopping = False
        self._restarts = restarts()

    def run(self) -> int:
        for _ in range(self._config.workers):
            self._start()
        failed = False
        while self._workers:
            ended = wait(list(self._workers), timeout=_PAUSE_SECONDS)
            for sentinel in ended:
                worker = self._workers.pop(cast(int, sentinel))
                worker.join()
                if self._stopping:
                    # SIGTERM itself ends a worker that had not begun to serve.
                    failed = failed or worker.exitcode not in (0, -signal.SIGTERM)
                else:
                    _log.error("worker %d ended with %s, starting another", worker.pid, worker.exitcode)
                    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
                    self._restarts.inc()
                    time.sleep(_PAUSE_SECONDS)
                    self._start()
            if self._stopping and not ended:
                # Sanic ignores the signal for a moment while it starts; one that stops ignores repetitions.
                self._tell_workers()
        return int(failed)

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        if not self._stopping:
            self._stopping = True
            # With our copies gone too, nobody listens and new clients are refused at once.
            for listener in self._listeners:
                listener.close()
            self._tell_workers()

    def _start(self) -> None:
        # Not between the fork and the new worker's entry in our list, where it would be missed.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if not self._stopping:
                fork = multiprocessing.get_context("fork")
                worker = fork.Process(target=_work, args=(self._config, self._listeners))
                worker.start()
                self._workers[worker.sentinel] = worker
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _tell_workers(self) -> None:
        for worker in self._workers.values():
            if worker.exitcode is None:
                os.kill(cast(int, worker.pid), signal.SIGTERM)


def _work(config: ProxyConfig, listeners: Sequence[socket.socket]) -> None:
    # The supervisor's handlers came along with the fork; until Sanic sets its own, a signal just ends us.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    serve(config, listeners)
