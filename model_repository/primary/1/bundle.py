"""One response stream of Triton for the pieces of many answers. Used on the responder thread alone.

A response costs Triton, gRPC and the proxy about as much whatever is in it, so the streams of one client in one forward
pass go out as one response. The client opens a bundle by a request of its own and names it in those that follow.
"""

from channel import Writer
from event import Event


class Bundle:
    """Pieces of answers on their way to one client.

    Args:
        name: what the client calls it.
        writer: the way back of the request that opened it.
    """

    def __init__(self, name: str, writer: Writer) -> None:
        self.name = name
        self.writer = writer
        self._events: list[Event] = []

    def add(self, recipient: int, events: list[Event]) -> None:
        """Take pieces of the answer that the client calls `recipient`; `flush` sends them."""
        for event in events:
            event.body["recipient"] = recipient
        self._events += events

    def flush(self) -> bool:
        """Send what was added since the last time, if anything was, in one response; return whether it was."""
        events, self._events = self._events, []
        if events:
            self.writer.send(events, is_final=False)
        return bool(events)

    def close(self) -> None:
        """Say that nothing more will come."""
        self.writer.send([], is_final=True)
