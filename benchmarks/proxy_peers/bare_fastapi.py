"""The least that a FastAPI application must do for a chat completion: no checks, no errors, no limits.

Usage: .bench/fastapi/bin/python -m uvicorn bare_fastapi:app --app-dir benchmarks/proxy_peers --port PORT
"""

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

NUM_CHUNKS = 64
WORD = "one two "

app = FastAPI()


@app.get("/health")
async def health() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """Answer at once."""
    body = await request.json()
    envelope = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body["model"]}
    if body.get("stream"):
        return StreamingResponse(_events(envelope), media_type="text/event-stream")
    message = {"role": "assistant", "content": NUM_CHUNKS * WORD}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 7, "completion_tokens": NUM_CHUNKS, "total_tokens": 7 + NUM_CHUNKS}
    return JSONResponse({**envelope, "object": "chat.completion", "choices": choices, "usage": usage})


async def _events(envelope: dict[str, Any]) -> AsyncIterator[str]:
    for number in range(NUM_CHUNKS):
        reason = "stop" if number == NUM_CHUNKS - 1 else None
        choices = [{"index": 0, "delta": {"content": WORD}, "finish_reason": reason}]
        yield f"data: {json.dumps({**envelope, 'object': 'chat.completion.chunk', 'choices': choices})}\n\n"
    yield "data: [DONE]\n\n"
