"""Both ends of the tensor contract name the same tensors, of the same types, and read what the other writes."""

import re
from typing import Any

import numpy as np
import pytest
from answer import Answer
from bundle import Bundle
from event import Event, error_event, load_event, merge
from google.protobuf import text_format
from llm.chat_output import ChatOutput
from llm.errors import (
    ContextLengthError,
    EngineError,
    GenerationError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
)
from llm.model_loader import ModelDescription as EngineDescription
from llm.observer import Load as EngineLoad
from llm.reasoning import ReasoningTags
from llm.request import GenerationRequest, SamplingParams
from llm.tool_format import HERMES
from triton_io import ResponseWriter, read_request
from tritonclient.grpc import model_config_pb2

from proxy import triton_client, wire_event
from proxy.backend import Load as ProxyLoad
from proxy.backend import ModelDescription as ProxyDescription
from proxy.backend import Usage
from proxy.errors import from_kind
from tests.engine.fakes import ByteTokenizer
from tests.launch.launched import ROOT
from tests.model_repository.fakes import RecordingWriter, request

CONFIG = text_format.Parse(
    (ROOT / "model_repository" / "primary" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
)
TYPES = {
    "BYTES": model_config_pb2.TYPE_STRING,
    "BOOL": model_config_pb2.TYPE_BOOL,
    "INT64": model_config_pb2.TYPE_INT64,
}


def test_the_proxy_sends_the_inputs_that_the_configuration_declares():
    declared = {tensor.name: tensor.data_type for tensor in CONFIG.input}
    assert {name: TYPES[kind] for name, kind in triton_client.INPUTS.items()} == declared
    assert all(tensor.optional for tensor in CONFIG.input)
    assert all(list(tensor.dims) == [-1 if tensor.name == "input_ids" else 1] for tensor in CONFIG.input)


def test_the_proxy_reads_the_outputs_that_the_configuration_declares():
    assert [tensor.name for tensor in CONFIG.output] == list(wire_event.OUTPUTS)
    assert CONFIG.model_transaction_policy.decoupled
    assert CONFIG.max_batch_size == 0


def test_the_page_names_every_tensor():
    page = (ROOT / "docs" / "tensor-contract.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \| (?:STRING|BOOL|INT64)", page, re.MULTILINE))
    assert named == {*triton_client.INPUTS, *wire_event.OUTPUTS}


def test_the_model_reads_every_input():
    """An input that only one end knows would be sent and never looked at."""
    source = (ROOT / "model_repository" / "primary" / "1" / "triton_io.py").read_text()
    assert set(re.findall(r'_read(?:_string|_json|_all)?\(request, "(\w+)"\)', source)) == set(triton_client.INPUTS)


def sent_events(events: list[Event]) -> list[wire_event.WireEvent]:
    """What the proxy makes of what the model writes."""
    triton_request = request(text_input="x")
    ResponseWriter(triton_request).send(events, is_final=True)
    ((response, _),) = triton_request.sender.sent
    arrays: dict[str, np.ndarray[Any, Any]] = {t.name(): t.as_numpy() for t in response.output_tensors}
    assert list(arrays) == list(wire_event.OUTPUTS)
    return [wire_event.read_event(*entry) for entry in zip(*arrays.values(), strict=True)]


def test_the_proxy_understands_the_pieces_of_an_answer():
    answer = Answer(
        GenerationRequest((1, 2), SamplingParams()), ByteTokenizer(), lambda token_id: bytes([token_id]), lambda _: None
    )
    events = [*answer.add(0, [65, 66], None), *answer.add(0, [67], "length")]
    events[-1].body["usage"] = answer.usage
    first, last = sent_events(events)
    assert (first.index, first.num_tokens, first.finish_reason, first.usage) == (0, 2, None, None)
    assert (last.num_tokens, last.finish_reason) == (1, "length")
    assert last.usage == Usage(prompt_tokens=2, completion_tokens=3, cached_tokens=0)


def test_the_proxy_understands_what_comes_by_a_bundle():
    writer = RecordingWriter()
    bundle = Bundle("b1", writer)
    bundle.add(7, [Event("a", {"index": 0, "num_tokens": 1, "finish_reason": None})])
    assert bundle.flush()
    assert not bundle.flush()
    (event,) = sent_events(writer.responses[0])
    assert (event.recipient, event.text, event.num_tokens) == (7, "a", 1)
    (last,) = sent_events([Event("b", {"index": 0, "num_tokens": 1, "finish_reason": "stop", "num_bundled": 1})])
    assert last.num_bundled == 1


def test_the_proxy_understands_thoughts_and_calls_in_pieces_and_merged():
    answer = Answer(
        GenerationRequest((1, 2), SamplingParams()),
        ByteTokenizer(),
        lambda token_id: bytes([token_id]),
        lambda _: None,
        [ChatOutput(ReasoningTags("<t>", "</t>", 1, 2), is_reasoning=True, form=HERMES)],
    )
    text = b'Hm.</t>So:<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    events = [event for token_id in text for event in answer.add(0, [token_id], None)]
    events += answer.add(0, [0], "stop")
    for pieces in (sent_events(events), sent_events(merge(events))):
        assert "".join(piece.reasoning for piece in pieces) == "Hm."
        parts = [part for piece in pieces for part in piece.tool_calls]
        assert [part.name for part in parts if part.name is not None] == ["f"]
        assert "".join(part.arguments for part in parts) == '{"a": 1}'
        assert {part.index for part in parts} == {0}
    assert [event.text for event in merge(events)] == ["So:"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequestError("m", param="p"), 400),
        (ContextLengthError(9, 8), 400),
        (OverloadedError("m", code="server_overloaded"), 429),
        (UnavailableError("m"), 503),
        (EngineError("m"), 500),
    ],
)
def test_every_failure_of_the_engine_has_its_http_status(error: GenerationError, status: int):
    (event,) = sent_events([error_event(error)])
    assert event.error
    mapped = from_kind(event.error.kind, event.error.message, code=event.error.code, param=event.error.param)
    assert (mapped.status, mapped.message, mapped.param) == (status, error.message, error.param)
    assert mapped.code == error.code or error.code is None


def test_the_proxy_understands_the_description():
    ours = EngineDescription("m", 8, "cpu", "float32", "0.1.0", "fp_1", 4)
    (event,) = sent_events([Event("", {"model": vars(ours)})])
    assert event.model
    for name in ProxyDescription.__struct_fields__:
        assert getattr(event.model, name) == getattr(ours, name)


def test_the_proxy_understands_how_busy_the_engine_is():
    ours = EngineLoad(
        num_running=3,
        num_waiting=2,
        num_blocks=10,
        num_used_blocks=4,
        block_size=16,
        num_preemptions=0,
        num_queried_tokens=0,
        num_hit_tokens=0,
        num_drafted_tokens=0,
        num_accepted_tokens=0,
    )
    (event,) = sent_events([load_event(ours)])
    assert event.load == ProxyLoad(num_running=3, num_waiting=2, kv_cache_tokens=160, kv_cache_used_tokens=64)
    assert read_request(request(task=b"load")).task == "load"


def test_the_model_understands_what_the_proxy_sends():
    sent = {
        "messages": b'[{"role":"user","content":"Hi"}]',
        "stream": True,
        "sampling_parameters": b'{"n":2,"stop":["x"]}',
    }
    assert set(sent) <= set(triton_client.INPUTS)
    read = read_request(request(**sent))
    assert read.messages == [{"role": "user", "content": "Hi"}]
    assert read.sampling == SamplingParams(n=2, stop=("x",))
    assert read.is_stream
