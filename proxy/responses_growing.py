"""The items of a response while they grow, and the events that tell of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from msgspec.structs import replace

from proxy.backend import TokenLogprob
from proxy.request_id import new_id
from proxy.responses_event import (
    ArgumentsDelta,
    ArgumentsDone,
    Event,
    ItemAdded,
    ItemDone,
    PartAdded,
    PartDone,
    ReasoningDelta,
    ReasoningDone,
    TextDelta,
    TextDone,
)
from proxy.responses_object import (
    FunctionCallItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
)
from proxy.tools import is_whole, new_call_id


class Growing(ABC):
    """One item, whose place in the output is `index`."""

    def __init__(self, index: int, item: OutputItem) -> None:
        self.index = index
        self.item = item

    def begin(self) -> Iterator[Event]:
        """The events that open it."""
        yield ItemAdded(output_index=self.index, item=replace(self.item))

    @abstractmethod
    def end(self, status: ItemStatus) -> Iterator[Event]:
        """The events that close it; `item` is whole then."""


class _Text(Growing):
    """An item with a text as its one part."""

    def __init__(self, index: int, item: MessageItem | ReasoningItem, part: OutputText | ReasoningText) -> None:
        super().__init__(index, item)
        self._part = part

    def begin(self) -> Iterator[Event]:
        """See `Growing.begin`."""
        yield from super().begin()
        yield PartAdded(output_index=self.index, item_id=self.item.id, part=type(self._part)())

    def end(self, status: ItemStatus) -> Iterator[Event]:
        """See `Growing.end`."""
        yield self._done()
        yield PartDone(output_index=self.index, item_id=self.item.id, part=self._part)
        self.item = replace(self.item, status=status, content=[self._part])
        yield ItemDone(output_index=self.index, item=self.item)

    @abstractmethod
    def _done(self) -> Event:
        """The event that repeats the text."""


class Words(_Text):
    """What the model says."""

    def __init__(self, index: int) -> None:
        self._said = OutputText()
        super().__init__(index, MessageItem(f"msg_{new_id()}"), self._said)

    def grow(self, text: str, logprobs: list[TokenLogprob]) -> Event:
        """More of it."""
        self._said.text += text
        self._said.logprobs += logprobs
        return TextDelta(output_index=self.index, item_id=self.item.id, delta=text, logprobs=logprobs)

    def _done(self) -> Event:
        said = self._said
        return TextDone(output_index=self.index, item_id=self.item.id, text=said.text, logprobs=said.logprobs)


class Thoughts(_Text):
    """What the model thinks aloud."""

    def __init__(self, index: int) -> None:
        self._thought = ReasoningText()
        super().__init__(index, ReasoningItem(f"rs_{new_id()}"), self._thought)

    def grow(self, text: str) -> Event:
        """More of it."""
        self._thought.text += text
        return ReasoningDelta(output_index=self.index, item_id=self.item.id, delta=text)

    def _done(self) -> Event:
        return ReasoningDone(output_index=self.index, item_id=self.item.id, text=self._thought.text)


class Call(Growing):
    """A call of a function."""

    def __init__(self, index: int, name: str) -> None:
        self._call = FunctionCallItem(f"fc_{new_id()}", new_call_id(), name)
        super().__init__(index, self._call)

    def grow(self, arguments: str) -> Event:
        """More of its arguments."""
        self._call.arguments += arguments
        return ArgumentsDelta(output_index=self.index, item_id=self.item.id, delta=arguments)

    def end(self, status: ItemStatus) -> Iterator[Event]:
        """See `Growing.end`. What a stop string has cut off is not complete, whatever the answer is."""
        call = self.item = self._call
        call.status = status if is_whole(call.arguments) else "incomplete"
        yield ArgumentsDone(output_index=self.index, item_id=call.id, name=call.name, arguments=call.arguments)
        yield ItemDone(output_index=self.index, item=call)
