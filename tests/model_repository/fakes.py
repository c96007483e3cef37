"""Triton's side of a request, by hand: the request, its response sender, and a writer that remembers."""

import json
import time
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from channel import Address
from event import Event
from llm.engine import Engine
from llm.request import GenerationRequest, SamplingParams
from responder import Responder


@dataclass
class FakeSender:
    sent: list[tuple[Any, int]] = field(default_factory=list)
    cancelled: bool = False

    def send(self, response: Any = None, flags: int = 0) -> None:
        self.sent.append((response, flags))

    def is_cancelled(self) -> bool:
        return self.cancelled


@dataclass
class FakeRequest:
    inputs: list[pb_utils.Tensor] = field(default_factory=list)
    parameters_json: str = ""
    sender: FakeSender = field(default_factory=FakeSender)
    id: str = ""

    def parameters(self) -> str:
        return self.parameters_json

    def request_id(self) -> str:
        return self.id

    def get_response_sender(self) -> FakeSender:
        return self.sender


def request(*, parameters: dict[str, Any] | None = None, **inputs: str | bytes | bool) -> FakeRequest:
    """A Triton request with these inputs, strings as UTF-8."""
    tensors = []
    for name, value in inputs.items():
        if isinstance(value, bool):
            array = np.array([value], dtype=np.bool_)
        else:
            array = np.array([value.encode() if isinstance(value, str) else value], dtype=np.object_)
        tensors.append(pb_utils.Tensor(name, array))
    return FakeRequest(tensors, json.dumps(parameters) if parameters else "")


class RecordingWriter:
    """Remembers the responses; can be told to be slow, to break, that its client left, or that this cannot be asked."""

    def __init__(self) -> None:
        self.responses: list[list[Event]] = []
        self.is_finished = False
        self.num_acknowledged = 0
        self.client_left = False
        self.cannot_be_asked = False
        self.breaks = False
        self.blocked = False
        self._changed = Condition()

    def send(self, events: list[Event], *, is_final: bool) -> None:
        with self._changed:
            assert not self.is_finished, "sent after the final response"
            assert events or is_final
            self._changed.wait_for(lambda: not self.blocked, timeout=10)
            self.is_finished = is_final
            if self.breaks:
                raise RuntimeError("the sender is broken")
            self.responses.append(events)
            self._changed.notify_all()

    def acknowledge(self) -> None:
        with self._changed:
            assert not self.is_finished, "acknowledged after the final response"
            self.num_acknowledged += 1

    def is_cancelled(self) -> bool:
        if self.cannot_be_asked:
            self.cannot_be_asked = False
            raise RuntimeError("the stub has lost its parent")
        return self.client_left

    def wait(self, condition: Any, timeout: float = 10) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout)

    def wait_finished(self) -> list[Event]:
        assert self.wait(lambda writer: writer.is_finished), "no final response"
        return [event for events in self.responses for event in events]

    def unblock(self) -> None:
        with self._changed:
            self.blocked = False
            self._changed.notify_all()


def ask(
    responder: Responder, prompt: str, *, is_stream: bool, address: Address | None = None, **sampling: object
) -> RecordingWriter:
    """Put a prompt of bytes to the responder's engine; the writer remembers the answer."""
    writer = RecordingWriter()
    request = GenerationRequest(tuple(prompt.encode()), SamplingParams(**sampling))  # type: ignore[arg-type]
    responder.generate(request, writer, is_stream=is_stream, address=address)
    return writer


def start(engine: Engine) -> None:
    """Run the engine until the fixture, or the test, stops it."""
    Thread(target=engine.run).start()


def wait_until(condition: object, timeout: float = 10) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + timeout
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)
