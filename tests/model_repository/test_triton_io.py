"""Triton's tensors become checked requests, and events become tensors of one length."""

import json
import math
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from channel import Address
from event import Event
from llm.chat_prompt import PromptOptions
from llm.errors import InvalidRequestError
from llm.grammar import Grammar
from llm.request import SamplingParams
from llm.tool_format import ToolChoice
from triton_io import ResponseWriter, read_request, read_sampling

from tests.model_repository.fakes import FakeRequest, request


def test_a_chat_request_is_read():
    messages = [{"role": "user", "content": "Hé"}]
    sampling = {"temperature": 0.5, "stop": "x", "max_tokens": None, "unknown": 1, "top_k": -1}
    read = read_request(request(messages=json.dumps(messages), stream=True, sampling_parameters=json.dumps(sampling)))
    assert read.messages == messages
    assert read.is_stream
    assert read.sampling == SamplingParams(temperature=0.5, stop=("x",), top_k=0)


def test_the_requests_own_parameters_stand_in_for_the_tensor():
    read = read_request(request(text_input="Hi", parameters={"max_tokens": 3, "temperature": 0}))
    assert read.text == "Hi"
    assert not read.is_stream
    assert read.sampling == SamplingParams(max_tokens=3, temperature=0)


@pytest.mark.parametrize(
    ("inputs", "param"),
    [
        ({}, "messages"),
        ({"task": "fly"}, "task"),
        ({"text_input": b"\xff"}, "text_input"),
        ({"messages": "{"}, "messages"),
        ({"messages": "[" * 100_000}, "messages"),
        ({"messages": "[]"}, "messages"),
        ({"messages": "{}"}, "messages"),
        ({"messages": '["hi"]'}, "messages"),
        ({"messages": '[{"role": 1}]'}, "messages"),
        ({"messages": '[{"role": "user", "content": 5}]'}, "messages"),
        ({"text_input": "x", "sampling_parameters": "[1]"}, "sampling_parameters"),
        ({"text_input": "x", "sampling_parameters": "nope"}, "sampling_parameters"),
        ({"text_input": "x", "prompt_options": "[1]"}, "prompt_options"),
        ({"text_input": "x", "prompt_options": '{"tools": {}}'}, "tools"),
        ({"text_input": "x", "prompt_options": '{"tools": [{}]}'}, "tools"),
        ({"text_input": "x", "prompt_options": '{"tools": [{"function": {"name": "a b"}}]}'}, "tools"),
        ({"text_input": "x", "prompt_options": '{"tools": [{"function": {"name": "f", "parameters": []}}]}'}, "tools"),
        ({"text_input": "x", "sampling_parameters": '{"grammar": "a"}'}, "grammar"),
        ({"text_input": "x", "sampling_parameters": '{"grammar": {}}'}, "grammar"),
        ({"text_input": "x", "sampling_parameters": '{"grammar": {"regex": "a", "lark": "b"}}'}, "grammar"),
        ({"text_input": "x", "sampling_parameters": '{"grammar": {"regex": 1}}'}, "grammar"),
        ({"text_input": "x", "sampling_parameters": '{"grammar": {"choice": []}}'}, "grammar"),
        ({"text_input": "x", "sampling_parameters": '{"grammar": {"choice": [1]}}'}, "choice"),
        ({"text_input": "x", "sampling_parameters": '{"tool_choice": "maybe"}'}, "tool_choice"),
        ({"text_input": "x", "sampling_parameters": '{"tool_choice": {"name": 1}}'}, "tool_choice"),
        ({"text_input": "x", "sampling_parameters": '{"parallel_tool_calls": 1}'}, "parallel_tool_calls"),
        ({"text_input": "x", "prompt_options": '{"add_generation_prompt": "yes"}'}, "add_generation_prompt"),
        ({"text_input": "x", "prompt_options": '{"chat_template_kwargs": []}'}, "chat_template_kwargs"),
    ],
    ids=str,
)
def test_malformed_inputs_are_refused_by_name(inputs: dict[str, Any], param: str):
    with pytest.raises(InvalidRequestError) as refusal:
        read_request(request(**inputs))
    assert refusal.value.param == param


@pytest.mark.parametrize(
    ("asked", "grammar"),
    [
        ({"json_object": True}, Grammar("json_object", "true")),
        ({"json_schema": {"type": "null"}, "is_lenient": True}, Grammar("json_schema", '{"type": "null"}', True)),
        ({"json_schema": False}, Grammar("json_schema", "false")),
        ({"regex": "a+", "lark": None}, Grammar("regex", "a+")),
        ({"choice": ["a", "b"]}, Grammar("choice", '["a", "b"]')),
    ],
)
def test_a_grammar_is_read(asked: Any, grammar: Grammar):
    read = read_request(request(text_input="x", sampling_parameters=json.dumps({"grammar": asked})))
    assert read.grammar == grammar


@pytest.mark.parametrize(
    ("asked", "choice", "has_tools"),
    [
        ({}, ToolChoice(), True),
        ({"tool_choice": "none"}, ToolChoice("none"), False),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ToolChoice("required", is_parallel=False), True),
        ({"tool_choice": {"name": "f"}}, ToolChoice("named", "f", is_parallel=False), True),
    ],
)
def test_tools_and_their_choice_are_read(asked: Any, choice: ToolChoice, has_tools: bool):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    inputs = {"text_input": "x", "prompt_options": json.dumps({"tools": tools})}
    read = read_request(request(**inputs, sampling_parameters=json.dumps(asked)))
    assert read.tool_choice == choice
    assert read.tools == (tools if has_tools else [])


def test_parameters_of_the_request_that_are_not_utf8_are_refused_by_name():
    """Triton hands them on, and its own reader of them raises: that was an internal error with a traceback."""
    with pytest.raises(InvalidRequestError) as refusal:
        read_request(UnreadableRequest(request(text_input="x").inputs))
    assert refusal.value.param == "parameters"


class UnreadableRequest(FakeRequest):
    def parameters(self) -> str:
        return b'{"stop":"\xff"}'.decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "1"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -2),
        ("top_k", 1.5),
        ("max_tokens", 0),
        ("max_tokens", 1.0),
        ("stop", 5),
        ("stop", [1]),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", ["a"] * 65),
        ("seed", "x"),
        ("n", 0),
    ],
)
def test_bad_sampling_parameters_are_refused_by_name(name: str, value: object):
    with pytest.raises(InvalidRequestError) as refusal:
        read_sampling({name: value})
    assert refusal.value.param == name


def test_events_become_two_tensors_of_one_length():
    triton_request = request(text_input="x")
    writer = ResponseWriter(triton_request)
    writer.send([Event("é", {"index": 0}), Event("", {"index": 1})], is_final=False)
    writer.send([], is_final=True)
    (response, flags), (nothing, final) = triton_request.sender.sent
    tensors = {tensor.name(): tensor.as_numpy().tolist() for tensor in response.output_tensors}
    assert tensors == {"text_output": ["é".encode(), b""], "event": [b'{"index":0}', b'{"index":1}']}
    assert (flags, nothing, final) == (0, None, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def test_half_a_surrogate_pair_in_an_event_keeps_nobody_from_being_answered():
    """A model may write `\\ud83d` in the name of a call; in a bundle it would be everybody's answer that fails."""
    triton_request = request(text_input="x")
    bodies = [{"tool_calls": [{"name": "\ud83d"}]}, {"index": 1}]
    ResponseWriter(triton_request).send([Event("", body) for body in bodies], is_final=False)
    ((response, _),) = triton_request.sender.sent
    assert [json.loads(sent) for sent in response.output_tensors[1].as_numpy()] == bodies


@pytest.mark.parametrize(("asked", "number"), [(True, 1), (False, 0), (1, 0), ("yes", 0), (None, 0)])
def test_a_request_is_acknowledged_if_it_asks_for_that(asked: object, number: int):
    triton_request = request(text_input="x", parameters={"acknowledge": asked})
    ResponseWriter(triton_request).acknowledge()
    assert [(sent.output_tensors, flags) for sent, flags in triton_request.sender.sent] == [([], 0)] * number


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("min_p", "0"),
        ("repetition_penalty", 0),
        ("repetition_penalty", 11),
        ("repetition_penalty", math.inf),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", True),
        ("frequency_penalty", 10**400),
        ("logit_bias", []),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"1" * 30: 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": 10**400}),
        ("logit_bias", {"1": True}),
        ("logit_bias", {"1": None}),
        ("logit_bias", {str(token): 1 for token in range(1025)}),
        ("min_tokens", -1),
        ("min_tokens", 1.5),
        ("stop_token_ids", 5),
        ("stop_token_ids", ["5"]),
        ("stop_token_ids", [True]),
        ("stop_token_ids", list(range(65))),
        ("ignore_eos", 1),
        ("logprobs", 21),
        ("logprobs", -1),
        ("logprobs", True),
        ("timeout", 0),
        ("timeout", math.inf),
        ("timeout", "5"),
    ],
    ids=str,
)
def test_sampling_parameters_out_of_range_are_refused_by_name(name: str, value: Any):
    with pytest.raises(InvalidRequestError) as refusal:
        read_sampling({name: value})
    assert refusal.value.param == name


def test_more_tokens_than_the_answer_may_have_cannot_be_its_least():
    with pytest.raises(InvalidRequestError) as refusal:
        read_sampling({"min_tokens": 5, "max_tokens": 4})
    assert refusal.value.param == "min_tokens"


def test_a_prompt_in_token_ids_is_read_with_its_options():
    asked = request(prompt_options='{"add_generation_prompt": false, "unknown": 1}')
    asked.inputs.append(pb_utils.Tensor("input_ids", np.array([5, 6, 7], dtype=np.int64)))
    read = read_request(asked)
    assert read.input_ids == (5, 6, 7)
    assert read.options == PromptOptions(add_generation_prompt=False)


def test_a_prompt_without_token_ids_is_refused():
    asked = request()
    asked.inputs.append(pb_utils.Tensor("input_ids", np.array([], dtype=np.int64)))
    with pytest.raises(InvalidRequestError) as refusal:
        read_request(asked)
    assert refusal.value.param == "input_ids"


def test_a_bundle_and_the_address_of_an_answer_are_read_from_the_parameters():
    asked = request(task="bundle", parameters={"bundle": "b1"})
    assert (read_request(asked).task, read_request(asked).bundle) == ("bundle", "b1")
    asked = request(text_input="x", sampling_parameters="{}", parameters={"bundle": "b1", "recipient": 7})
    assert read_request(asked).address == Address("b1", 7)


@pytest.mark.parametrize("parameters", [None, {"bundle": ""}, {"bundle": 7}, {"recipient": 7}])
def test_a_bundle_without_a_name_is_refused(parameters: dict[str, Any] | None):
    with pytest.raises(InvalidRequestError) as refused:
        read_request(request(task="bundle", parameters=parameters))
    assert refused.value.param == "bundle"


@pytest.mark.parametrize("parameters", [None, {"bundle": "b1"}, {"bundle": 7, "recipient": 7}, {"recipient": 7}])
def test_half_an_address_is_none(parameters: dict[str, Any] | None):
    asked = request(text_input="x", sampling_parameters="{}", parameters=parameters)
    assert read_request(asked).address is None
