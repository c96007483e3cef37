"""Sends the engine's tokens as text: one thread for every response sender of the model.

The engine hands over what it has for all requests at once, pass by pass. A response through Triton costs far more than
a token does: passes that ended while the thread was busy pile up in their channels, and a channel's pile goes out as
one response: the further behind, the better it merges. The engine never waits. Channels that share a bundle share
their responses, too: one for all that is ready.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic

from answer import Answer
from bundle import Bundle
from channel import Address, Channel, Note, Writer
from event import Event, error_event, merge
from llm.chat_output import Output
from llm.engine import Engine
from llm.errors import EngineError, GenerationError, InvalidRequestError
from llm.observer import Timeline
from llm.request import GenerationRequest, Submission
from llm.text_stream import Decoder

log = logging.getLogger(__name__)

# How long a client may be gone before its place in the batch is free again. Asking costs a message to Triton.
CANCEL_POLL_SECONDS = 0.25

# What the thread is told: the notes of a pass, a request to look after, a bundle, a reply, or that it shall end.
_Item = list[tuple[Channel, Note]] | Channel | Bundle | tuple[Writer, Event] | None


class Responder:
    """The responder thread and the channels it serves.

    Attributes:
        num_responses: responses with pieces of answers that have been sent.
    """

    def __init__(self, engine: Engine, decoder: Decoder, bytes_of: Callable[[int], bytes]) -> None:
        self._engine = engine
        self._decoder = decoder
        self._bytes_of = bytes_of
        self._ready: SimpleQueue[_Item] = SimpleQueue()
        self._outbox: list[tuple[Channel, Note]] = []  # the engine thread's
        engine.on_output = self._hand_over
        self._polled: set[Channel] = set()
        self._bundles: dict[str, Bundle] = {}
        self._next_poll = 0.0
        self.num_responses = 0
        self._thread = Thread(target=self._run, name="responder", daemon=True)

    def start(self) -> None:
        """Start the responder thread."""
        self._thread.start()

    def stop(self) -> None:
        """Send what has been handed over so far, then end the thread."""
        self._ready.put(None)
        self._thread.join()

    def generate(
        self,
        request: GenerationRequest,
        writer: Writer,
        *,
        is_stream: bool,
        decoder: Decoder | None = None,
        outputs: Sequence[Output] = (),
        timeline: Timeline | None = None,
        address: Address | None = None,
    ) -> None:
        """Have the engine answer a request through `writer`. Returns at once, on any thread.

        Args:
            request: what to answer.
            writer: where to.
            is_stream: send text as it comes, instead of all at the end.
            decoder: stands in for the model's own.
            outputs: what takes the text of each choice apart; empty: nothing does.
            timeline: begun when the request arrived; by default now.
            address: where pieces of a streamed answer go that is not complete yet, if such a bundle is open.

        Raises:
            GenerationError: the engine refuses it; nothing has been sent.
        """
        self._engine.check(request)  # before anything is made for each of its choices
        channel = Channel(writer, is_stream=is_stream, post=self._outbox.append, address=address)
        submission = Submission(request, channel, timeline or Timeline())
        channel.submission = submission
        channel.answer = Answer(
            request,
            decoder or self._decoder,
            self._bytes_of,
            outputs=outputs,
            on_stop_string=lambda index: self._engine.finish_choice(submission, index),
        )
        self._engine.submit(submission)
        self._ready.put(channel)  # so that it is asked whether its client is still there from now on

    def reply(self, event: Event, writer: Writer) -> None:
        """Answer with this event alone, without the engine. Returns at once, on any thread."""
        self._ready.put((writer, event))

    def open_bundle(self, name: str, writer: Writer) -> None:
        """Send pieces of answers whose address says so by `writer`, until its client leaves. Returns at once."""
        self._ready.put(Bundle(name, writer))

    def _hand_over(self) -> None:
        """See `Engine.on_output`."""
        if self._outbox:
            self._ready.put(self._outbox.copy())
            self._outbox.clear()

    def _run(self) -> None:
        while True:
            items = self._wait()
            channels = self._take_in(items)
            for channel in channels:
                self._serve(channel)
            self._flush()
            if None in items:
                for bundle in list(self._bundles.values()):
                    self._end(bundle)
                return
            if monotonic() >= self._next_poll:
                self._cancel_abandoned()
                self._next_poll = monotonic() + CANCEL_POLL_SECONDS

    def _wait(self) -> list[_Item]:
        """All that has come; nothing when it is time to ask who is still there."""
        timeout = max(0.0, self._next_poll - monotonic()) if self._polled or self._bundles else None
        items = []
        with suppress(Empty):
            items.append(self._ready.get(timeout=timeout))
            while True:
                items.append(self._ready.get_nowait())
        return items

    def _take_in(self, items: list[_Item]) -> Iterable[Channel]:
        """Do what needs no engine, and put the engine's notes on their piles; returns the channels to look at."""
        channels: dict[Channel, None] = {}
        for item in items:
            match item:
                case list():
                    for channel, note in item:
                        channel.pile.add(note)
                        channels[channel] = None
                case Channel():
                    channels[item] = None
                case Bundle():
                    self._begin(item)
                case (writer, event):
                    self._reply_now(writer, event)
        return channels

    def _reply_now(self, writer: Writer, event: Event) -> None:
        try:
            writer.send([event], is_final=True)
        except Exception:
            log.exception("a reply could not be sent")

    def _begin(self, bundle: Bundle) -> None:
        if bundle.name in self._bundles:  # which would leave the older one's client waiting
            error = InvalidRequestError("A bundle of this name is open already.", param="bundle")
            self._reply_now(bundle.writer, error_event(error))
        else:
            self._bundles[bundle.name] = bundle
            with suppress(Exception):  # nothing has gone wrong but the way to the client, which is asked after
                bundle.writer.acknowledge()

    def _end(self, bundle: Bundle) -> None:
        """Close it, and cancel whatever has said something by it: the rest would be missed."""
        del self._bundles[bundle.name]
        with suppress(Exception):
            bundle.close()
        for channel in self._polled:
            if channel.num_bundled and channel.address is not None and channel.address.bundle == bundle.name:
                self._engine.cancel(channel.submission)

    def _flush(self) -> None:
        for bundle in list(self._bundles.values()):
            try:
                self.num_responses += bundle.flush()
            except Exception:
                log.exception("a bundle of answers could not be sent; its requests end here")
                self._end(bundle)

    def _serve(self, channel: Channel) -> None:
        if channel.is_closed:
            return
        try:
            if channel not in self._polled:
                self._polled.add(channel)
                channel.writer.acknowledge()
            self._respond(channel)
        except Exception:
            log.exception("an answer could not be sent; the request ends here")
            self._engine.cancel(channel.submission)
            with suppress(Exception):  # the way to the client is most likely broken itself
                self._close(channel, [error_event(EngineError("The answer could not be sent."))])

    def _respond(self, channel: Channel) -> None:
        pile, answer = channel.take(), channel.answer
        if pile.num_reused is not None:
            answer.num_reused = pile.num_reused
        for new in pile.choices.values():
            channel.unsent += answer.add(new.index, new.token_ids, new.finish_reason, new.logprobs)
        if answer.is_complete:
            events = merge(channel.unsent)
            events[-1].body["usage"] = answer.usage
            self._close(channel, events)
        elif isinstance(pile.early_end, GenerationError):
            pieces = merge(channel.unsent) if channel.is_stream else []
            self._close(channel, [*pieces, error_event(pile.early_end)])
        elif pile.early_end == "cancelled":
            self._close(channel, [])
        elif channel.is_stream and any(event.says_something for event in channel.unsent):
            events, channel.unsent = merge(channel.unsent), []
            self._send(channel, events)

    def _send(self, channel: Channel, events: list[Event]) -> None:
        """Send pieces that are not the last; the way of the first is that of all, or they would overtake each other."""
        if channel.address is not None and (bundle := self._bundles.get(channel.address.bundle)):
            bundle.add(channel.address.recipient, events)
            channel.num_bundled += len(events)
        elif not channel.num_bundled:  # else the bundle has ended, and the request is cancelled
            channel.address = None
            channel.writer.send(events, is_final=False)
            self.num_responses += 1

    def _close(self, channel: Channel, events: list[Event]) -> None:
        channel.is_closed = True
        self._polled.discard(channel)
        if events and channel.num_bundled:
            events[-1].body["num_bundled"] = channel.num_bundled
        channel.writer.send(events, is_final=True)
        self.num_responses += bool(events)

    def _cancel_abandoned(self) -> None:
        for channel in list(self._polled):
            if self._has_left(channel.writer):
                self._polled.discard(channel)
                self._engine.cancel(channel.submission)
        for bundle in list(self._bundles.values()):
            if self._has_left(bundle.writer):
                self._end(bundle)

    def _has_left(self, writer: Writer) -> bool:
        try:
            return writer.is_cancelled()
        except Exception:
            log.exception("a client cannot be asked after; its request ends here")
            return True
