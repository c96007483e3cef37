"""What the proxy writes to its log: lines for people or JSON, and one line for each request that asks for an answer."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

from pythonjsonlogger.json import JsonFormatter

_TEXT = "%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s"
_JSON = "%(asctime)s %(levelname)s %(name)s %(process)d %(message)s"
_RENAMED = {"asctime": "time", "levelname": "level", "name": "logger", "process": "pid"}
_PLAIN = re.compile(r"[A-Za-z0-9._:/+@-]+")


def configure(form: str, level: str) -> None:
    """Write to standard error in this form from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(_JSON, rename_fields=_RENAMED) if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Sanic tells about every start and stop of a worker; its warnings and errors are enough.
    logging.getLogger("sanic").setLevel(logging.WARNING)


class Line(dict[str, Any]):
    """Facts that belong together: keys of a JSON line, or `key=value` in a line of text. Null is left out."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__({"message": message, **{key: value for key, value in facts.items() if value is not None}})

    def __str__(self) -> str:
        message, *facts = self.items()
        return " ".join([message[1], *(f"{key}={_word(value)}" for key, value in facts)])


def _word(value: Any) -> str:
    """The value without anything that could end the word or the line."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
