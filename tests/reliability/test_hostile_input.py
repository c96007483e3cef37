"""Whatever clients send, to the proxy or to Triton's own ports: no 5xx, no process lost, no other answer touched."""

import json
import random
import socket
import time
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from tests.reliability.conftest import Victim

FUZZ_SECONDS = 10
SEED = 20261125

FIELDS = [
    *("model", "prompt", "messages", "temperature", "top_p", "max_tokens", "n", "stop", "seed", "logit_bias"),
    *("stream", "stream_options", "top_logprobs", "presence_penalty", "min_p", "top_k", "repetition_penalty"),
    *("tools", "tool_choice", "response_format", "guided_regex", "guided_json", "stop_token_ids", "input_ids", "echo"),
    *("chat_template_kwargs", "continue_final_message", "min_tokens", "logprobs", "timeout"),
]
ATOMS: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        -(2**63),
        2**64,
        10**400,
        1e308,
        -1e-308,
        0.5,
        "",
        "x",
        "\0",
        "\x1b[2J",
    ),
    *("\u202e", "🙂" * 50, "a" * 5000, "<|im_start|>system\n", "{{ 7*7 }}", "{% for x in range(10**9) %}x{% endfor %}"),
    *("(a+)+$", "((((((((((a*)*)*)*)*)*)*)*)*)*", "[" * 200, "../../etc/passwd", "nan", [], {}, [[]], {"": ""}),
]


@pytest.fixture(autouse=True)
def _unharmed(victim: Victim):
    """Before and after: the same processes, and the same greedy answers."""
    groups = ("primary", "tiny")
    for group in groups:
        victim.wait_until_it_serves(group)
    pids = [victim.stub(group) for group in groups]
    texts = [victim.ask(group).json()["choices"][0]["text"] for group in groups]
    yield
    assert [victim.ask(group).json()["choices"][0]["text"] for group in groups] == texts
    assert [victim.stub(group) for group in groups] == pids


def test_random_requests_get_an_answer_or_a_reason(victim: Victim) -> None:
    rng = random.Random(SEED)
    deadline = time.monotonic() + FUZZ_SECONDS
    count = 0
    with httpx.Client(base_url=victim.url, timeout=60) as http:
        while time.monotonic() < deadline or count < 100:
            path = rng.choice(["/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize"])
            body = _mutated(rng, json.dumps(_random_body(rng)).encode())
            answer = http.post(path, content=body, headers={"content-type": "application/json"})
            assert answer.status_code < 500, (path, body[:2000], answer.text)
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            count += 1


def test_random_requests_to_tritons_own_endpoint_hurt_nobody(victim: Victim) -> None:
    rng = random.Random(SEED)
    url = f"http://127.0.0.1:{victim.launch.ports['TRITON_HTTP_PORT']}/v2/models/tiny/generate"
    deadline = time.monotonic() + FUZZ_SECONDS / 2
    with httpx.Client(timeout=60) as http:
        while time.monotonic() < deadline:
            body: dict[str, Any] = {rng.choice(["text_input", "messages", "task"]): rng.choice(ATOMS)}
            if rng.random() < 0.5:
                body["parameters"] = {rng.choice(FIELDS): rng.choice(ATOMS)}
            else:
                body["sampling_parameters"] = json.dumps({**_random_body(rng), "max_tokens": 3})
            body["sampling_parameters"] = body.get("sampling_parameters", '{"max_tokens": 3}')
            answer = http.post(url, content=_mutated(rng, json.dumps(body).encode()))
            assert "not healthy" not in answer.text, body


def test_tensors_of_every_wrong_type_and_shape_are_refused(victim: Victim) -> None:
    with InferenceServerClient(f"127.0.0.1:{victim.launch.ports['TRITON_GRPC_PORT']}") as client:
        for name in ("task", "text_input", "messages", "prompt_options", "sampling_parameters", "stream", "input_ids"):
            for datatype, array in (
                ("BYTES", np.array([b"\xff\xfe"], dtype=np.object_)),
                ("BYTES", np.array([b"a", b"b"], dtype=np.object_)),
                ("BYTES", np.array([], dtype=np.object_)),
                ("INT64", np.array([-1, 2**62], dtype=np.int64)),
                ("INT64", np.array([], dtype=np.int64)),
                ("FP32", np.array([[np.nan]], dtype=np.float32)),
                ("BOOL", np.array([True], dtype=np.bool_)),
            ):
                assert _refusal_or_error(client, name, datatype, array)


@pytest.mark.parametrize("num_calls", [1, 100_000])
def test_giant_tool_calls_are_refused_while_others_are_answered(victim: Victim, num_calls: int) -> None:
    """Calls of 15 MB were rendered before their length was known; for seconds nobody else was let in."""
    arguments = json.dumps({"x": "a" * (14_000_000 // num_calls)}) if num_calls == 1 else "{}"
    calls = [{"id": "i", "type": "function", "function": {"name": "f", "arguments": arguments}}] * num_calls
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    body = {"model": "primary", "messages": [*messages, {"role": "user", "content": "Go on"}]}
    answer = httpx.post(f"{victim.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_connections_that_say_nothing_or_half_of_something_keep_nobody_out(victim: Victim) -> None:
    port = victim.launch.ports["OPENAI_PORT"]
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n"
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    for number, connection in enumerate(held):
        connection.sendall((head + b'{"model": "primary", ')[: number % (len(head) + 20)])
    began = time.monotonic()
    assert victim.ask("tiny").status_code == 200
    assert time.monotonic() - began < 10
    for connection in held:
        connection.close()


def test_clients_that_leave_at_any_point_leave_nothing_behind(victim: Victim) -> None:
    port = victim.launch.ports["OPENAI_PORT"]
    message = {"role": "user", "content": "Tell me a long story."}
    body = json.dumps({"model": "primary", "messages": [message], "stream": True, "max_tokens": 2000}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    for number in range(40):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(request[: len(request) * number // 20])
            if number >= 20:
                connection.recv(number)
    began = time.monotonic()
    assert victim.ask().status_code == 200  # the batch is free again, so that it is answered soon
    assert time.monotonic() - began < 15


def _random_body(rng: random.Random) -> dict[str, Any]:
    sane: dict[str, Any] = {"model": "tiny", "max_tokens": 3, "prompt": "Hi"}
    sane["messages"] = [{"role": "user", "content": "Hi"}]
    return {**sane, **{rng.choice(FIELDS): _value(rng, 3) for _ in range(rng.randrange(4))}, "max_tokens": 3}


def _value(rng: random.Random, depth: int) -> Any:
    if depth and rng.random() < 0.3:
        inner = [_value(rng, depth - 1) for _ in range(rng.randrange(4))]
        return inner if rng.random() < 0.5 else {rng.choice([*FIELDS, "role", "type", "function"]): v for v in inner}
    return rng.choice(ATOMS)


def _mutated(rng: random.Random, body: bytes) -> bytes:
    match rng.randrange(8):
        case 0:
            at = rng.randrange(len(body))
            return body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
        case 1:
            return body[: rng.randrange(len(body))]
        case 2:
            return body.replace(b'"Hi"', rng.choice([b'"\\ud800"', b'"\\u0000"', b"NaN", b"1e999", b"[" * 3000]))
    return body


def _refusal_or_error(client: InferenceServerClient, name: str, datatype: str, array: "np.ndarray[Any, Any]") -> bool:
    """Ask with one strange tensor beside a sane request; whether an answer came, whatever it says."""
    strange = InferInput(name, list(array.shape), datatype)
    strange.set_data_from_numpy(array)
    limits = InferInput("sampling_parameters", [1], "BYTES")
    limits.set_data_from_numpy(np.array([b'{"max_tokens": 1}'], dtype=np.object_))
    inputs = [strange] if name == "sampling_parameters" else [strange, limits]
    answers: list[Any] = []
    client.start_stream(lambda result, error: answers.append(error or result), stream_timeout=20)
    try:
        client.async_stream_infer("tiny", inputs)
    except InferenceServerException as error:
        answers.append(error)
    client.stop_stream()
    return bool(answers) and "not healthy" not in str(answers[0])
