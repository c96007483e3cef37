"""Several serving processes behind one listening socket, and the process that looks after them.

Sanic's own worker manager keeps the socket open while its workers finish, so that new clients hang, and
answers a second signal with SIGKILL for the whole process group, launch script and Triton included.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import cast

from proxy.config import ProxyConfig
from proxy.serve import serve

_log = logging.getLogger(__name__)

# Between a worker's death and its successor's birth, so that one that cannot start does not burn a core.
_PAUSE_SECONDS = 1.0


def supervise(config: ProxyConfig, listener: socket.socket) -> int:
    """Run `config.workers` processes until SIGTERM; replace one that dies; return the exit status."""
    fork = multiprocessing.get_context("fork")
    workers: dict[int, BaseProcess] = {}
    stopping = False

    def start() -> None:
        worker = fork.Process(target=_work, args=(config, listener))
        worker.start()
        workers[worker.sentinel] = worker

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            return
        stopping = True
        # With our copy gone too, the address is free of listeners and new clients are refused at once.
        listener.close()
        for worker in workers.values():
            os.kill(cast(int, worker.pid), signal.SIGTERM)

    for _ in range(config.workers):
        start()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    status = 0
    while workers:
        for sentinel in wait(list(workers)):
            worker = workers.pop(cast(int, sentinel))
            worker.join()
            if stopping:
                status = status or int(worker.exitcode != 0)
            else:
                _log.error("worker %d ended with %s, starting another", worker.pid, worker.exitcode)
                time.sleep(_PAUSE_SECONDS)
                if not stopping:
                    start()
    return status


def _work(config: ProxyConfig, listener: socket.socket) -> None:
    # The supervisor's handlers came along with the fork; until Sanic sets its own, a signal just ends us.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    serve(config, listener)
