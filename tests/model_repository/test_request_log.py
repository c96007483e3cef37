"""The model's log: a line for each request with its id, also for one that is refused; settings that are checked."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from llm.errors import ConfigError, ContextLengthError
from llm.observer import Timeline
from llm.request import GenerationRequest, SamplingParams, Submission
from request_log import RequestLog, configure_logging

from tests.engine.fakes import RecordingSink, counting_engine


@pytest.fixture
def root_logger() -> Iterator[None]:
    """The root logger as it was, afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


def written(capsys: pytest.CaptureFixture[str], form: str) -> list[str]:
    listener = configure_logging({"TAKEOFF_LOG_FORMAT": form})
    engine, _ = counting_engine()
    log = RequestLog("primary")
    engine.observers.append(log)
    timeline = Timeline(request_id="r1")
    request = GenerationRequest((1, 2), SamplingParams(max_tokens=3))
    engine.submit(Submission(request, RecordingSink(), timeline))
    for _ in range(3):
        engine.step()
    log.refused(Timeline(request_id="r2"), ContextLengthError(9, 8))
    listener.stop()
    return capsys.readouterr().err.splitlines()


def test_as_json(root_logger: None, capsys: pytest.CaptureFixture[str]):
    answered, refused = (json.loads(line) for line in written(capsys, "json"))
    expected: dict[str, Any] = {"request_id": "r1", "model": "primary", "outcome": "length", "prompt_tokens": 2}
    expected |= {"cached_tokens": 0, "generated_tokens": 3, "level": "INFO"}
    assert answered.items() >= expected.items()
    assert 0 <= answered["queue_ms"] <= answered["first_token_ms"] <= answered["total_ms"]
    assert refused.items() >= {"request_id": "r2", "outcome": "refused", "code": "context_length_exceeded"}.items()


def test_as_text(root_logger: None, capsys: pytest.CaptureFixture[str]):
    answered, refused = written(capsys, "text")
    assert "request request_id=r1 model=primary outcome=length prompt_tokens=2 cached_tokens=0" in answered
    assert "request_id=r2 model=primary outcome=refused error=invalid_request" in refused


@pytest.mark.parametrize(
    ("variable", "value"), [("TAKEOFF_LOG_FORMAT", "xml"), ("TAKEOFF_LOG_LEVEL", "loud"), ("TAKEOFF_LOG_LEVEL", "INFO")]
)
def test_a_setting_that_cannot_be_used_is_named_with_its_fix(variable: str, value: str):
    with pytest.raises(ConfigError, match=rf"{variable}='{value}' cannot be used: set it to (text|debug)"):
        configure_logging({variable: value})
