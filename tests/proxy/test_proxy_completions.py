"""Text completions and tokens as a raw HTTP client sees them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backend import Piece, TokenLogprob, TopLogprob, Usage
from proxy.chat_response import ChatAnswer
from proxy.completion_request import parse
from proxy.completion_response import CompletionAnswer
from proxy.errors import InvalidRequestError, OverloadedError
from tests.proxy.conftest import Serve, Server
from tests.proxy.fakes import FakeBackend, respond, stall

USAGE = Usage(2, 3, 1)


def entry(token: str, logprob: float = -0.5) -> TokenLogprob:
    own = list(token.encode())
    return TokenLogprob(token, logprob, own, [TopLogprob(token, logprob, own), TopLogprob("?", -9.0, [63])])


async def complete(server: Server, **fields: Any) -> httpx.Response:
    return await server.http.post("/v1/completions", json={"model": "primary", "prompt": "Hi", **fields})


def events(text: str) -> list[Any]:
    lines = [line for line in text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_a_prompt_is_continued(server: Server, backend: FakeBackend) -> None:
    body = (await complete(server)).json()
    assert body.pop("id").startswith("cmpl-")
    assert body.pop("created") > 0
    assert body == {
        "object": "text_completion",
        "model": "primary",
        "system_fingerprint": "fp_fake",
        "choices": [{"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
    assert backend.last.prompt.text == "Hi"
    assert backend.last.sampling_parameters == {"max_tokens": 16}


async def test_a_stream_says_the_same(server: Server) -> None:
    chunks = events((await complete(server, stream=True, stream_options={"include_usage": True})).text)
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == "Hello world"
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None, "stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 9
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


@pytest.mark.parametrize("stream", [False, True])
async def test_several_prompts_make_choices_in_their_order(server: Server, backend: FakeBackend, stream: bool) -> None:
    response = await complete(server, prompt=["A", "B", "C"], n=2, echo=True, stream=stream)
    chunks = events(response.text) if stream else [response.json()]
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {i: f"{'AABBCC'[i]}Hello world" for i in range(6)}
    assert sorted(request.prompt.text or "" for _, request in backend.requests) == ["A", "B", "C"]
    if not stream:
        assert chunks[0]["usage"]["prompt_tokens"] == 21
        assert chunks[0]["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize(
    ("prompt", "sent"), [([72, 105], [[72, 105]]), ([[72], [105, 33]], [[72], [105, 33]])], ids=str
)
async def test_token_ids_are_prompts_too(
    server: Server, backend: FakeBackend, prompt: Any, sent: list[list[int]]
) -> None:
    response = await complete(server, prompt=prompt, echo=True)
    assert [request.prompt.token_ids for _, request in backend.requests] == sent
    assert [choice["text"] for choice in response.json()["choices"]] == [
        bytes(ids).decode() + "Hello world" for ids in sent
    ]


WRONG = [
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": ["a", 5]}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [[5, -1]]}, "prompt"),
    ({"prompt": [[5], "a"]}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": [2**40]}, "prompt"),
    ({"prompt": ["a"] * 65}, "prompt"),
    ({"suffix": "x"}, "suffix"),
    ({"best_of": 2}, "best_of"),
    ({"n": 9}, "n"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"echo": True, "logprobs": 1}, "logprobs"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"stream_options": {}}, "stream_options"),
    ({"model": None}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=str)
async def test_a_wrong_field_is_named(server: Server, fields: dict[str, Any], param: str) -> None:
    response = await complete(server, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_the_engines_name_of_a_field_becomes_the_clients() -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        parse(b'{"model": "primary", "prompt": [[]]}', 8, 8)
    assert refusal.value.param == "prompt"


async def test_a_prompt_that_the_engine_refuses_is_called_prompt(server: Server, backend: FakeBackend) -> None:
    refusal = InvalidRequestError("text_input is too long.", param="text_input", code="context_length_exceeded")
    backend.script = respond(refusal)
    response = await complete(server)
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": "'prompt' is too long.",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": "context_length_exceeded",
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_when_one_prompt_fails_none_is_left_running(server: Server, backend: FakeBackend, stream: bool) -> None:
    refuse, hang = respond(OverloadedError("Full.")), stall()
    backend.script = lambda request: (refuse if request.prompt.text == "B" else hang)(request)
    response = await complete(server, prompt=["A", "B", "C"], stream=stream)
    assert response.status_code == 429
    assert backend.num_open == 0


async def test_a_client_that_leaves_ends_all_its_prompts(server: Server, backend: FakeBackend) -> None:
    backend.script = stall()
    with pytest.raises(httpx.ReadTimeout):
        await server.http.post(
            "/v1/completions", json={"model": "primary", "prompt": ["A", "B"]}, timeout=httpx.Timeout(5, read=0.3)
        )
    async with asyncio.timeout(5):
        while backend.num_open:  # noqa: ASYNC110 (the fake has no event for the last of several)
            await asyncio.sleep(0.01)
    assert len(backend.requests) == 2


async def test_logprobs_have_the_older_shape(server: Server, backend: FakeBackend) -> None:
    backend.script = respond(
        [Piece(0, "He", 1, logprobs=[entry("He")])],
        [Piece(0, "y you", 2, "stop", USAGE, logprobs=[entry("y", -1.0), entry(" you")])],
    )
    whole = (await complete(server, logprobs=2)).json()["choices"][0]
    assert whole["logprobs"] == {
        "tokens": ["He", "y", " you"],
        "token_logprobs": [-0.5, -1.0, -0.5],
        "top_logprobs": [{"He": -0.5, "?": -9.0}, {"y": -1.0, "?": -9.0}, {" you": -0.5, "?": -9.0}],
        "text_offset": [0, 2, 3],
    }
    assert backend.last.sampling_parameters["logprobs"] == 2
    parts = [c["choices"][0]["logprobs"] for c in events((await complete(server, logprobs=2, stream=True)).text)]
    assert [offset for part in parts for offset in part["text_offset"]] == [0, 2, 3]


async def test_chats_have_logprobs_whole_and_streamed(server: Server, backend: FakeBackend) -> None:
    backend.script = respond(
        [Piece(0, "", 1, logprobs=[entry("\ufffd")])],
        [Piece(0, "Hé", 2, "stop", USAGE, logprobs=[entry("a"), entry("b")])],
    )
    choice = (await server.chat(logprobs=True, top_logprobs=2)).json()["choices"][0]
    assert [token["token"] for token in choice["logprobs"]["content"]] == ["\ufffd", "a", "b"]
    assert choice["logprobs"]["refusal"] is None
    assert choice["logprobs"]["content"][1]["top_logprobs"][1] == {"token": "?", "logprob": -9.0, "bytes": [63]}
    chunks = events((await server.chat(logprobs=True, top_logprobs=2, stream=True)).text)
    streamed = [c["choices"][0]["logprobs"] for c in chunks]
    assert [e["token"] for logprobs in streamed if logprobs for e in logprobs["content"]] == ["\ufffd", "a", "b"]
    assert streamed[0] is None
    assert streamed[-1] is None


@given(
    st.lists(st.tuples(st.integers(0, 2), st.text(max_size=5)), min_size=1, max_size=20),
    st.lists(st.integers(1, 4), min_size=20, max_size=20),
)
def test_any_split_of_any_text_streams_to_the_same_text(parts: list[tuple[int, str]], sizes: list[int]) -> None:
    pieces = [Piece(index, text, 1) for index, text in parts] + [Piece(i, "", 0, "stop") for i in range(3)]
    pieces[-1] = Piece(2, "", 0, "stop", USAGE)
    chat, completion = ChatAnswer("m", "fp", False), CompletionAnswer("m", "fp", False)
    streamed: dict[tuple[str, int], str] = {}
    at = 0
    for size in [*sizes, len(pieces)]:
        some, at = pieces[at : at + size], at + size
        for chunk in chat.chunks(some):
            for choice in chunk.choices:
                if isinstance(choice.delta.content, str):
                    key = "chat", choice.index
                    streamed[key] = streamed.get(key, "") + choice.delta.content
        for event in completion.chunks(some):
            for part in event.choices:
                key = "completion", part.index
                streamed[key] = streamed.get(key, "") + part.text
    whole = ChatAnswer("m", "fp", False).completion(pieces)
    assert {c.index: c.message.content for c in whole.choices} == {i: streamed["chat", i] for i in range(3)}
    whole_text = CompletionAnswer("m", "fp", False).completion(pieces)
    assert {c.index: c.text for c in whole_text.choices} == {i: streamed["completion", i] for i in range(3)}


async def test_tokens_of_a_text_and_of_a_conversation(server: Server) -> None:
    asked = {"model": "primary", "prompt": "ab", "return_token_strs": True}
    assert (await server.http.post("/tokenize", json=asked)).json() == {
        "count": 2,
        "max_model_len": 2048,
        "tokens": [97, 98],
        "token_strs": ["a", "b"],
    }
    asked = {"model": "primary", "messages": [{"role": "user", "content": "Hi"}]}
    answer = (await server.http.post("/tokenize", json=asked)).json()
    assert (answer["count"], answer["token_strs"]) == (3, None)
    answer = (await server.http.post("/detokenize", json={"model": "primary", "tokens": [72, 105]})).json()
    assert answer == {"prompt": "Hi"}


@pytest.mark.parametrize(
    ("route", "fields", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "user"}]}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": []}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [300]}, "tokens"),
    ],
    ids=str,
)
async def test_wrong_tokens_are_named(server: Server, route: str, fields: dict[str, Any], param: str) -> None:
    response = await server.http.post(route, json={"model": "primary", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_the_version_is_shown(server: Server) -> None:
    assert (await server.http.get("/version")).json() == {"version": "0.1.0"}


async def test_the_number_of_prompts_is_a_setting(serve: Serve) -> None:
    server = await serve(max_prompts=1)
    assert (await complete(server, prompt=["A", "B"])).status_code == 400
    assert (await complete(server, prompt=["A"])).status_code == 200
