"""A Triton and a process table that do what a test tells them to, and remember what they were asked for."""

from collections.abc import Callable

from keeper.triton import ModelState, Pulse

HEALTHY = Pulse(is_serving=True, pass_seconds=0.0)
Beat = Pulse | Exception


class FakeTriton:
    """`Triton` with one model, `primary`. What it was asked for stands in `calls`."""

    def __init__(self) -> None:
        self.models = [ModelState("primary", "READY")]
        self.beat: Callable[[str], Beat] = lambda _model: HEALTHY
        self.load_failures: list[Exception | None] = []  # of the next loads
        self.stays_unloaded = False  # after a failed load, in the index
        self.index_failure: Exception | None = None
        self.is_running = False
        self.calls: list[str] = []

    async def index(self) -> list[ModelState]:
        if self.index_failure is not None:
            raise self.index_failure
        return self.models

    async def pulse(self, model: str) -> Pulse:
        beat = self.beat(model)
        if isinstance(beat, Exception):
            raise beat
        return beat

    async def load(self, model: str) -> None:
        self.calls.append(f"load {model}")
        if self.load_failures and (failure := self.load_failures.pop(0)) is not None:
            if not self.stays_unloaded:
                self.models = [ModelState(model, "UNAVAILABLE", "out of memory")]
            raise failure
        self.models = [ModelState(model, "READY")]
        self.beat = lambda _model: HEALTHY

    async def unload(self, model: str) -> None:
        self.calls.append(f"unload {model}")


class FakeProcesses:
    """`Processes` of a FakeTriton."""

    def __init__(self, triton: FakeTriton) -> None:
        self._triton = triton

    def is_running(self, model: str) -> bool:
        return self._triton.is_running

    def kill(self, model: str) -> int:
        self._triton.calls.append(f"kill {model}")
        return 1
