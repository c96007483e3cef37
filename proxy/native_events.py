"""The events of Takeoff's streams: text as it is, without JSON around it, one `data:` line per line of text."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from proxy.errors import ErrorBody
from proxy.native_response import Metadata, TextEvent
from proxy.sse import Wire


def encode(events: Iterable[TextEvent | Metadata | ErrorBody]) -> bytes:
    """Write the events.

    Readers take one space after the colon away, and take any kind of line break for the end of a line: text that
    begins with a space gets another one, and line breaks arrive as line feeds.
    """
    return b"".join(_text(event) if isinstance(event, TextEvent) else _named(event) for event in events)


def _text(event: TextEvent) -> bytes:
    lines = event.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    head = "" if event.index is None else f"id:{event.index}\n"
    return (head + "".join(f"data:{_spaced(line)}\n" for line in lines) + "\n").encode()


def _spaced(line: str) -> str:
    return f" {line}" if line.startswith(" ") else line


def _named(event: Metadata | ErrorBody) -> bytes:
    name = b"error" if isinstance(event, ErrorBody) else b"metadata"
    return b"event:" + name + b"\ndata:" + msgspec.json.encode(event) + b"\n\n"


WIRE = Wire(encode, done=b"")
