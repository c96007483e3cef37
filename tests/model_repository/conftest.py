"""A responder and its engine, on a model that counts."""

from collections.abc import Iterator

import pytest
from llm.engine import Engine
from responder import Responder

from tests.engine.fakes import ByteTokenizer, counting_engine


@pytest.fixture(params=["a pass blocks", "a device computes by itself"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """To be started, or stepped by hand."""
    engine, runner = counting_engine(num_blocks=10**4, max_model_len=10**4, max_batch_size=64)
    runner.returns_early = request.param == "a device computes by itself"
    yield engine
    engine.stop()


@pytest.fixture
def responder(engine: Engine) -> Iterator[Responder]:
    """Answers with the engine, once that runs."""
    responder = Responder(engine, ByteTokenizer(), lambda token_id: bytes([token_id % 256]))
    responder.start()
    yield responder
    responder.stop()
