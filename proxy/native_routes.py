"""What the native API's description says of each route of port 3000, in one line each."""

from __future__ import annotations

from proxy.health import Health
from proxy.native_request import NativeBody
from proxy.native_response import Generated
from proxy.routes import ANSWER, BODY, CHAT, GROUP, MODELS, VERSION, Api, Route
from proxy.status import Status

_EVENTS = (
    "Events whose data is text as it is, one `data:` line per line of it; where `text` was a list, `id:` is the number "
    "of the prompt. With return_metadata the last event is one of the name `metadata`, whose data is JSON. An event of "
    "the name `error`, whose data is an error body, ends a stream that has failed."
)

NATIVE = Api(
    title="Slipstream native",
    summary="Takeoff's own API for the same groups, and what the page for people asks.",
    routes=(
        Route(
            method="post",
            path="/generate",
            summary="Continue one or several texts",
            body=NativeBody,
            answer=Generated,
            failures=BODY + GROUP + ANSWER,
        ),
        Route(
            method="post",
            path="/generate_stream",
            summary="Continue one or several texts, and send them as they are written",
            body=NativeBody,
            text_events=_EVENTS,
            failures=BODY + GROUP + ANSWER,
        ),
        Route(method="get", path="/status", summary="Say what runs here and how each group is", answer=Status),
        Route(
            method="get",
            path="/healthz",
            summary="Say whether at least one group can answer",
            answer=Health,
            failures=(503,),
            is_open=True,
        ),
        CHAT,
        *MODELS,
        VERSION,
    ),
)
