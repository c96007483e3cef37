"""The name of one request in logs, errors and in Triton: the client's own if it is sane, otherwise made."""

from __future__ import annotations

import random
import re

from sanic import Request

HEADER = "x-request-id"

# What fits into a header, a log line and a label without quoting.
_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def new_id() -> str:
    """A name that nothing else has. It opens no door: the system, which takes longer, need not be asked."""
    return f"{random.getrandbits(128):032x}"


def request_id(request: Request) -> str:
    """Return the request's id, the same one each time."""
    known = getattr(request.ctx, "request_id", None)
    if known is None:
        offered = request.headers.getone(HEADER, "")
        known = offered if _SANE.fullmatch(offered) else new_id()
        request.ctx.request_id = known
    return str(known)
