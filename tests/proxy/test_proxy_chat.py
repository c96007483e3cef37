"""Chat completions as a raw HTTP client sees them."""

from __future__ import annotations

import time

from tests.proxy.conftest import Server
from tests.proxy.fakes import FakeBackend


async def test_a_plain_answer_is_a_whole_completion(server: Server, backend: FakeBackend) -> None:
    response = await server.chat()
    body = response.json()
    assert response.status_code == 200, body
    assert response.headers["content-type"] == "application/json"
    assert body.pop("id").startswith("chatcmpl-")
    assert abs(body.pop("created") - time.time()) < 5
    assert body == {
        "object": "chat.completion",
        "model": "primary",
        "system_fingerprint": "fp_fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello world", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
    assert backend.last.stream is False
