"""litellm: a whole answer, a stream, several turns, a completion, an error."""

import asyncio
import json
import sys

import litellm

base_url = sys.argv[1]
settings = {"api_base": base_url, "api_key": "none", "temperature": 0, "max_tokens": 16, "num_retries": 0}
question = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is inference server?"},
]


def ask(messages, **more):
    return litellm.completion(model="openai/primary", messages=messages, **settings, **more)


answer = ask(question)
text = answer.choices[0].message.content
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(question, stream=True))
turns = [*question, {"role": "assistant", "content": text}, {"role": "user", "content": "Say it again."}]
completion = litellm.text_completion(
    model="text-completion-openai/primary", prompt="The capital of France is", **settings
)


async def ask_later() -> str:
    later = await litellm.acompletion(model="openai/primary", messages=question, **settings)
    return later.choices[0].message.content


try:
    litellm.completion(model="openai/nobody", messages=question, **settings)
    error = ""
except litellm.NotFoundError as refusal:
    error = "model_not_found" if "nobody" in str(refusal) else str(refusal)

print(
    json.dumps(
        {
            "text": text,
            "streamed": streamed,
            "async": asyncio.run(ask_later()),
            "turn": ask(turns).choices[0].message.content,
            "completion": completion.choices[0].text,
            "completion_tokens": answer.usage.completion_tokens,
            "prompt_tokens": answer.usage.prompt_tokens,
            "finish_reason": answer.choices[0].finish_reason,
            "error": error,
        }
    )
)
