"""One line of the model's log for each request: its id, how it ended, tokens and times. Engine's thread.

Nothing of a prompt or an answer is in it. Lines are written by a thread of their own, so that nobody waits for a disk.
"""

import json
import logging
import re
from collections.abc import Mapping
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import Any

from llm.errors import ConfigError, GenerationError
from llm.observer import Observer, Timeline
from pythonjsonlogger.json import JsonFormatter

log = logging.getLogger("slipstream.requests")

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_JSON = "%(asctime)s %(levelname)s %(name)s %(message)s"
_RENAMED = {"asctime": "time", "levelname": "level", "name": "logger"}
_LEVELS = ("debug", "info", "warning", "error")
_PLAIN = re.compile(r"[A-Za-z0-9._:/+@-]+")


def configure_logging(environ: Mapping[str, str]) -> QueueListener:
    """Log as TAKEOFF_LOG_FORMAT and TAKEOFF_LOG_LEVEL say, until the listener that is returned is stopped.

    Raises:
        ConfigError: one of them cannot be used.
    """
    form = _one_of(environ, "TAKEOFF_LOG_FORMAT", ("text", "json"))
    level = _one_of(environ, "TAKEOFF_LOG_LEVEL", _LEVELS, default="info")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(_JSON, rename_fields=_RENAMED) if form == "json" else logging.Formatter(_TEXT))
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    listener = QueueListener(queue, handler)
    listener.start()
    logging.basicConfig(level=level.upper(), handlers=[_Keeping(queue)], force=True)
    return listener


def _one_of(environ: Mapping[str, str], variable: str, allowed: tuple[str, ...], default: str = "") -> str:
    value = environ.get(variable, "").strip() or default or allowed[0]
    if value not in allowed:
        raise ConfigError(f"{variable}={value!r} cannot be used: set it to {' or '.join(allowed)}")
    return value


class _Keeping(QueueHandler):
    """Hands records over as they are: queue and listener are in one process, and JSON wants the facts."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


class RequestLog(Observer):
    """Writes a line when a request ends.

    Args:
        model: Triton's name of the model.
    """

    def __init__(self, model: str) -> None:
        self._model = model

    def request_ended(self, timeline: Timeline) -> None:
        """See `Observer`."""
        assert timeline.ended is not None
        log.info(
            _Line(
                request_id=timeline.request_id,
                model=self._model,
                outcome=timeline.outcome,
                prompt_tokens=timeline.num_prompt_tokens,
                cached_tokens=timeline.num_reused,
                generated_tokens=timeline.num_generated,
                queue_ms=_milliseconds(timeline.arrived, timeline.scheduled),
                first_token_ms=_milliseconds(timeline.arrived, timeline.first_token),
                total_ms=_milliseconds(timeline.arrived, timeline.ended),
            )
        )

    def refused(self, timeline: Timeline, error: GenerationError) -> None:
        """A request has been refused before the engine took it in. On any thread."""
        log.info(
            _Line(
                request_id=timeline.request_id,
                model=self._model,
                outcome="refused",
                error=error.kind,
                code=error.code,
                param=error.param,
            )
        )


class _Line(dict[str, Any]):
    """Facts: keys of a JSON line, or `key=value` in a line of text. Null is left out."""

    def __init__(self, **facts: Any) -> None:
        super().__init__(message="request", **{key: value for key, value in facts.items() if value is not None})

    def __str__(self) -> str:
        return " ".join(["request", *(f"{key}={_word(self[key])}" for key in self if key != "message")])


def _word(value: Any) -> str:
    return str(value) if _PLAIN.fullmatch(str(value)) else json.dumps(str(value))


def _milliseconds(start: float, end: float | None) -> int | None:
    return None if end is None else round(1000 * (end - start))
