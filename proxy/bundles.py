"""Several streamed answers in one response: the bundles of docs/tensor-contract.md, as this process has them.

A response costs gRPC and asyncio about as much whatever is in it. So the streams of one Triton model share a call of
their own, by which their pieces come: one response for all of them in each forward pass. What ends an answer comes by
the answer's own call. Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from itertools import count, groupby

from proxy.errors import ApiError, UnavailableError
from proxy.wire_event import Responses, WireEvent

# Below so many streams of a model at once, a bundle would cost more than it saves.
_COMPANY = 2
# A bundle that is open holds up Triton's unloading of the model; so each takes answers on for no longer than this.
_INTAKE_SECONDS = 5.0
# So many responses of an answer's own call wait for its client at most; the others wait in Triton.
_MAX_AHEAD = 8


class Recipient:
    """One answer whose pieces may come by a bundle. `parameters` tell the model so."""

    def __init__(self, bundle: str, number: int) -> None:
        self.number = number
        self.parameters: dict[str, str | int] = {"bundle": bundle, "recipient": number}
        self._inbox: asyncio.Queue[list[WireEvent] | Exception | None] = asyncio.Queue()
        self._unread: list[WireEvent] | None = None  # what came by the bundle and has not been fetched
        self._latest: dict[int, WireEvent] = {}  # of these, by choice
        self._num_bundled = 0
        self._changed = asyncio.Event()
        self._failure: ApiError | None = None

    async def responses(self, own: Responses) -> Responses:
        """What comes by the bundle, and by the answer's own call, in the order in which the model has sent it."""
        reading = asyncio.create_task(self._read(own))
        try:
            while (item := await self._inbox.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                self._unread = None
                self._changed.set()
                yield item
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    def deliver(self, events: list[WireEvent]) -> None:
        """Take what came by the bundle. What a slow client has not fetched yet becomes one event for each choice."""
        self._num_bundled += len(events)
        self._changed.set()
        if self._unread is None:
            self._unread, self._latest = events, {event.index: event for event in events}
            self._inbox.put_nowait(events)
            return
        for event in events:
            if event.index not in self._latest or not self._latest[event.index].take_in(event):
                self._unread.append(event)
                self._latest[event.index] = event

    def fail(self, failure: ApiError) -> None:
        """The bundle has ended early. An answer of which nothing has come by it does not depend on it."""
        self._failure = failure
        if self._num_bundled:
            self._inbox.put_nowait(failure)
        self._changed.set()

    async def _read(self, own: Responses) -> None:
        try:
            async with aclosing(own):
                async for events in own:
                    await self._wait_for_bundled(events[-1].num_bundled)
                    self._inbox.put_nowait(events)
                    await self._wait_for_client()
            self._inbox.put_nowait(None)
        except Exception as error:
            self._inbox.put_nowait(error)

    async def _wait_for_bundled(self, num_bundled: int) -> None:
        while self._num_bundled < num_bundled:
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            await self._changed.wait()

    async def _wait_for_client(self) -> None:
        while self._inbox.qsize() > _MAX_AHEAD:
            self._changed.clear()
            await self._changed.wait()


class _Bundle:
    def __init__(self) -> None:
        self.name = secrets.token_hex(16)  # with which one could write into others' answers
        self.is_broken = False
        self._began = time.monotonic()
        self._numbers = count(1)
        self._recipients: dict[int, Recipient] = {}

    @property
    def is_old(self) -> bool:
        return time.monotonic() - self._began > _INTAKE_SECONDS

    @property
    def is_empty(self) -> bool:
        return not self._recipients

    def join(self) -> Recipient:
        recipient = Recipient(self.name, next(self._numbers))
        self._recipients[recipient.number] = recipient
        return recipient

    def leave(self, recipient: Recipient) -> None:
        del self._recipients[recipient.number]

    def deliver(self, events: list[WireEvent]) -> None:
        for number, theirs in groupby(events, key=lambda event: event.recipient):
            if recipient := self._recipients.get(number):  # else it has left, which the model does not know yet
                recipient.deliver(list(theirs))

    def fail(self, failure: ApiError) -> None:
        self.is_broken = True
        for recipient in self._recipients.values():
            recipient.fail(failure)


class Bundles:
    """The bundles of each Triton model.

    Args:
        open_call: opens a bundle of a model by its name, and yields what comes by it.
    """

    def __init__(self, open_call: Callable[[str, str], Responses]) -> None:
        self._open_call = open_call
        self._num_streams: Counter[str] = Counter()
        self._current: dict[str, _Bundle] = {}
        self._reading: dict[_Bundle, asyncio.Task[None]] = {}

    @contextmanager
    def stream(self, model: str) -> Iterator[Recipient | None]:
        """Within it, one more answer of `model` is streamed. None: it is to have responses of its own."""
        self._num_streams[model] += 1
        bundle = self._bundle(model) if self._num_streams[model] >= _COMPANY else None
        recipient = bundle.join() if bundle is not None else None
        try:
            yield recipient
        finally:
            self._num_streams[model] -= 1
            if not self._num_streams[model]:
                del self._num_streams[model]
            if bundle is not None and recipient is not None:
                bundle.leave(recipient)
                if bundle.is_empty:
                    self._close(model, bundle)

    async def close(self) -> None:
        """End all calls."""
        for task in self._reading.values():
            task.cancel()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)

    def _bundle(self, model: str) -> _Bundle | None:
        """The one that takes answers on; None: the last one is broken."""
        bundle = self._current.get(model)
        if bundle is None or bundle.is_old:
            bundle = self._current[model] = _Bundle()
            self._reading[bundle] = asyncio.create_task(self._read(model, bundle))
        return None if bundle.is_broken else bundle

    def _close(self, model: str, bundle: _Bundle) -> None:
        """Nobody is left; one that is broken stays for a while, so that not every answer tries another."""
        if self._current.get(model) is bundle and not bundle.is_broken:
            del self._current[model]
        if reading := self._reading.get(bundle):
            reading.cancel()

    async def _read(self, model: str, bundle: _Bundle) -> None:
        try:
            async with aclosing(self._open_call(model, bundle.name)) as responses:
                async for events in responses:
                    if (error := events[-1].error) is not None:
                        raise UnavailableError(error.message)
                    bundle.deliver(events)
            raise UnavailableError(f"The group {model!r} ended its answer early. Please try again.")
        except ApiError as error:
            bundle.fail(error)
        finally:
            self._reading.pop(bundle, None)
