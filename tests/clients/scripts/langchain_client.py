"""LangChain: a whole answer, a stream, several turns, a batch, an error."""

import asyncio
import json
import sys

import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

base_url = sys.argv[1]
model = ChatOpenAI(base_url=base_url, api_key="none", model="primary", temperature=0, max_tokens=16, max_retries=0)
question = [SystemMessage("You are a helpful assistant."), HumanMessage("What is inference server?")]

answer = model.invoke(question)
streamed = "".join(chunk.content for chunk in model.stream(question))
turns = [*question, AIMessage(answer.content), HumanMessage("Say it again.")]
batch = model.batch([question, question], config={"max_concurrency": 2})


async def astream() -> str:
    return "".join([chunk.content async for chunk in model.astream(question)])


try:
    model.bind(model="nobody").invoke(question)
    error = ""
except openai.NotFoundError as refusal:
    error = str(refusal.code)

print(
    json.dumps(
        {
            "text": answer.content,
            "streamed": streamed,
            "async": asyncio.run(astream()),
            "batch": [message.content for message in batch],
            "turn": model.invoke(turns).content,
            "completion_tokens": answer.usage_metadata["output_tokens"],
            "prompt_tokens": answer.usage_metadata["input_tokens"],
            "finish_reason": answer.response_metadata["finish_reason"],
            "error": error,
        }
    )
)
