"""What the API's description says of each route, in one line each; the types that validate say the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxy.chat_request import ChatBody
from proxy.chat_response import ChatChunk, ChatCompletion
from proxy.completion_request import CompletionBody
from proxy.completion_response import Completion
from proxy.health import Health
from proxy.models import Model, ModelList
from proxy.responses_event import ResponsesEvent
from proxy.responses_object import ResponseObject
from proxy.responses_request import ResponsesBody
from proxy.tokens import DetokenizeAnswer, DetokenizeBody, TokenizeAnswer, TokenizeBody
from proxy.version import Version

_EVENT_STREAM = (
    "One `data:` line per event, of the type below, then `data: [DONE]`; an event with an `error` ends a stream that "
    "has failed."
)


@dataclass(frozen=True, kw_only=True)
class Route:
    """One route as clients see it.

    Attributes:
        body: type of the request's body.
        answer: type of a 200's body.
        event: type of a stream's events, where the route streams.
        event_stream: how such a stream is written.
        text_events: how a stream is written whose events are text.
        failures: statuses that only this route has.
    """

    method: str
    path: str
    summary: str
    answer: Any = None
    body: Any = None
    event: Any = None
    event_stream: str = _EVENT_STREAM
    text_events: str = ""
    failures: tuple[int, ...] = ()
    is_open: bool = False


@dataclass(frozen=True, kw_only=True)
class Api:
    """The routes of one port, as one description."""

    title: str
    summary: str
    routes: tuple[Route, ...]


# Whatever reads a body can refuse it in these ways; whatever asks a group can find it absent, full, ill or slow.
BODY = (400, 403, 408, 413, 415)
GROUP = (404, 500, 503)
ANSWER = (429, 504)

CHAT = Route(
    method="post",
    path="/v1/chat/completions",
    summary="Answer a conversation",
    body=ChatBody,
    answer=ChatCompletion,
    event=ChatChunk,
    failures=BODY + GROUP + ANSWER,
)
MODELS = (
    Route(method="get", path="/v1/models", summary="List the groups that are ready", answer=ModelList),
    Route(method="get", path="/v1/models/{id}", summary="Describe one group", answer=Model, failures=GROUP),
)
VERSION = Route(method="get", path="/version", summary="Say which version answers", answer=Version)

ROUTES = (
    CHAT,
    Route(
        method="post",
        path="/v1/completions",
        summary="Continue one or several prompts",
        body=CompletionBody,
        answer=Completion,
        event=Completion,
        failures=BODY + GROUP + ANSWER,
    ),
    Route(
        method="post",
        path="/v1/responses",
        summary="Answer a conversation, as OpenAI's newer API does; nothing is kept",
        body=ResponsesBody,
        answer=ResponseObject,
        event=ResponsesEvent,
        event_stream="An `event:` line with its name and a `data:` line per event, of the type below; after "
        "`response.completed`, `response.incomplete` or `response.failed` nothing comes.",
        failures=BODY + GROUP + ANSWER,
    ),
    Route(
        method="post",
        path="/tokenize",
        summary="Turn a text or a conversation into tokens",
        body=TokenizeBody,
        answer=TokenizeAnswer,
        failures=BODY + GROUP,
    ),
    Route(
        method="post",
        path="/detokenize",
        summary="Turn tokens into text",
        body=DetokenizeBody,
        answer=DetokenizeAnswer,
        failures=BODY + GROUP,
    ),
    *MODELS,
    VERSION,
    Route(method="get", path="/health", summary="Say that the process lives", answer=Health, is_open=True),
    Route(
        method="get",
        path="/health/ready",
        summary="Say which groups can answer",
        answer=Health,
        failures=(503,),
        is_open=True,
    ),
)

OPENAI = Api(title="Slipstream", summary="Hugging Face models behind the OpenAI API on NVIDIA Triton.", routes=ROUTES)
