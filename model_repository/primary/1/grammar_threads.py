"""Where grammars are compiled: beside the requests that have none, which a monstrous schema must not hold up."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore

from llm.errors import OverloadedError

NUM_THREADS = 2
MAX_WAITING = 256


class GrammarThreads:
    """A few threads and a bounded queue before them."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="grammar")
        self._places = BoundedSemaphore(MAX_WAITING)

    def submit(self, work: Callable[[], None]) -> None:
        """Have `work`, which must not raise, done soon. Returns at once.

        Raises:
            OverloadedError: too many wait already.
        """
        if not self._places.acquire(blocking=False):
            raise OverloadedError(
                f"{MAX_WAITING} grammars are waiting to be compiled; try again later.", code="server_overloaded"
            )
        self._threads.submit(self._run, work)

    def stop(self) -> None:
        """Return when all of it is done."""
        self._threads.shutdown()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self._places.release()
