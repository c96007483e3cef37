"""LlamaIndex: a whole answer, a stream, several turns, a completion, an error."""

import asyncio
import json
import sys

import openai
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

base_url = sys.argv[1]
settings = {"api_base": base_url, "api_key": "none", "max_tokens": 16, "temperature": 0, "max_retries": 0}
model = OpenAILike(model="primary", is_chat_model=True, **settings)
question = [
    ChatMessage(role="system", content="You are a helpful assistant."),
    ChatMessage(role="user", content="What is inference server?"),
]

answer = model.chat(question)
streamed = "".join(part.delta or "" for part in model.stream_chat(question))
turns = [*question, answer.message, ChatMessage(role="user", content="Say it again.")]
completion = OpenAILike(model="primary", is_chat_model=False, **settings).complete("The capital of France is")

try:
    OpenAILike(model="nobody", is_chat_model=True, **settings).chat(question)
    error = ""
except openai.NotFoundError as refusal:
    error = str(refusal.code)


async def ask() -> str:
    return (await model.achat(question)).message.content or ""


print(
    json.dumps(
        {
            "text": answer.message.content,
            "streamed": streamed,
            "async": asyncio.run(ask()),
            "turn": model.chat(turns).message.content,
            "completion": completion.text,
            "completion_tokens": answer.raw.usage.completion_tokens,
            "prompt_tokens": answer.raw.usage.prompt_tokens,
            "finish_reason": answer.raw.choices[0].finish_reason,
            "error": error,
        }
    )
)
