"""Streams through the real Triton: together they say what they say alone, in far fewer responses than tokens."""

import asyncio
import time
from collections.abc import Callable

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.launch.launched import Launched

NUM_STREAMS, NUM_TOKENS = 12, 24


RESPONSES, TOKENS = "slipstream_engine_responses_total", "slipstream_engine_generated_tokens_total"

Counts = Callable[[], dict[str, float]]


@pytest.fixture
def settled(service: Launched) -> Counts:
    """What the engine has counted, when nothing is added any more: the numbers are carried over once a second."""
    url = f"http://127.0.0.1:{service.ports['TRITON_METRICS_PORT']}/metrics"

    def now() -> dict[str, float]:
        sums = dict.fromkeys((RESPONSES, TOKENS), 0.0)
        for family in text_string_to_metric_families(httpx.get(url).text):
            for sample in family.samples:
                if sample.name in sums:
                    sums[sample.name] += sample.value
        return sums

    def settled() -> dict[str, float]:
        was, counts = None, now()
        while was != counts:
            time.sleep(1.5)
            was, counts = counts, now()
        return counts

    return settled


async def test_streams_share_responses_and_say_the_same(base_url: str, settled: Counts):
    async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none") as client:

        async def ask(number: int) -> str:
            stream = await client.chat.completions.create(
                model="primary",
                messages=[{"role": "user", "content": f"Count to {number}."}],
                temperature=0,
                max_tokens=NUM_TOKENS,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        alone = [await ask(number) for number in range(NUM_STREAMS)]
        before = settled()
        together = await asyncio.gather(*(ask(number) for number in range(NUM_STREAMS)))
    after = settled()
    assert together == alone
    num_tokens = after[TOKENS] - before[TOKENS]
    assert num_tokens == NUM_STREAMS * NUM_TOKENS
    assert after[RESPONSES] - before[RESPONSES] < num_tokens / 2
