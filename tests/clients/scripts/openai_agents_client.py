"""OpenAI's Agents SDK: an agent that must call a tool first, gets its answer, and says something of its own."""

import asyncio
import json
import sys

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

set_tracing_disabled(True)
called: list[dict[str, object]] = []


@function_tool
def get_weather(city: str, days: int) -> str:
    """Tells the weather of a city for so many days."""
    called.append({"city": city, "days": days})
    return "It is sunny and 25 degrees warm."


async def main() -> None:
    client = AsyncOpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
    settings = ModelSettings(tool_choice="required", parallel_tool_calls=False, temperature=0, max_tokens=80)
    agent = Agent(
        name="Forecaster",
        instructions="Tell people about the weather.",
        model={"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}[sys.argv[2]]("primary", client),
        tools=[get_weather],
        model_settings=settings,
    )
    question = "What is the weather in Paris for the next 3 days?"
    result = await Runner.run(agent, question, max_turns=4)
    streamed = Runner.run_streamed(agent, question, max_turns=4)
    async for _ in streamed.stream_events():
        pass
    kinds = [item.type for item in result.new_items]
    answers = [result.final_output, streamed.final_output]
    print(json.dumps({"called": called, "kinds": kinds, "answers": answers}))


asyncio.run(main())
