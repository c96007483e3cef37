"""Prompts beside running streams are computed in chunks that keep a pass as short as it was asked to be."""

from collections.abc import Callable
from itertools import count

import pytest
from llm.block_pool import BlockPool
from llm.chunk_pacer import MAX_PATIENCE, MIN_TOKENS, ChunkPacer
from llm.request import GenerationRequest, SamplingParams, Submission
from llm.scheduler import Chunk, Scheduler
from llm.sequence import Sequence

from tests.engine.fakes import RecordingSink

LIMIT = 0.2
NUM_WARM_UP = 40


def sequence(num_tokens: int, first: int) -> Sequence:
    prompt = tuple(range(first, first + num_tokens))
    return Sequence(
        submission=Submission(GenerationRequest(prompt, SamplingParams()), RecordingSink()),
        index=0,
        token_ids=list(prompt),
        max_length=10**6,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        end_token_ids=frozenset(),
    )


def seconds_of(chunks: list[Chunk]) -> float:
    """As two cores take them: for the weights, for each token, and for what each token looks back on."""
    num_tokens = sum(chunk.num_tokens for chunk in chunks)
    return 0.03 + 0.0006 * num_tokens + 5e-7 * sum(chunk.num_tokens * chunk.start for chunk in chunks)


def passes(
    prompts: list[int], num_streams: int = 1, seconds: Callable[[list[Chunk]], float] = seconds_of
) -> list[tuple[int, float]]:
    """Tokens of prompts, and the duration, of each pass beside `num_streams` streams until the prompts are computed."""
    scheduler = Scheduler(BlockPool(4096, 32), max_batch_size=100, max_batch_tokens=512, max_pass_seconds=LIMIT)
    first = count(0, 10**5)
    streams = [sequence(1, next(first)) for _ in range(num_streams)]
    newcomers = [sequence(num_tokens, next(first)) for num_tokens in prompts]
    for each in streams:
        scheduler.add(each)
    taken = []
    for number in range(2000):
        if number == NUM_WARM_UP:
            for each in newcomers:
                scheduler.add(each)
        chunks = scheduler.schedule()
        took = seconds(chunks)
        scheduler.complete(chunks, took)
        for each in streams:
            each.append(7)
        if number >= NUM_WARM_UP:
            taken.append((sum(chunk.num_tokens for chunk in chunks) - num_streams, took))
            if all(each.num_uncomputed == 0 for each in newcomers):
                return taken
    raise AssertionError("a prompt never ended")


@pytest.mark.parametrize("prompts", [[8000], [3000, 3000, 3000, 3000]])
def test_a_pass_beside_a_stream_stays_within_its_time(prompts: list[int]):
    """Each of several prompts took a chunk of its own, and a chunk took the longer the more tokens lay before it."""
    taken = passes(prompts)
    assert max(took for _, took in taken) < 1.2 * LIMIT
    # The time is used: half of it on the average, the ends of short prompts aside.
    assert sum(took for _, took in taken) / len(taken) > LIMIT / 2


def test_a_burst_of_short_prompts_is_begun_together():
    """Cut as finely as for one prompt, 32 requests at once had their first tokens half again as late."""
    taken = passes([60] * 50)
    assert max(took for _, took in taken) < 1.2 * MAX_PATIENCE * LIMIT
    assert len(taken) <= 9
    assert len(passes([60] * 50, num_streams=50)) > 9  # as many stream as wait: their gaps stay short


def test_a_fast_machine_computes_prompts_in_whole_batches():
    taken = passes([8000], seconds=lambda chunks: 1e-5 * len(chunks))
    assert max(num_tokens for num_tokens, _ in taken) == 511


def test_where_passes_take_long_without_prompts_they_may_take_twice_as_long_with_them():
    taken = passes([4000], seconds=lambda chunks: 0.25 + 0.0006 * sum(chunk.num_tokens for chunk in chunks))
    assert max(num_tokens for num_tokens, _ in taken[3:-1]) > 300
    assert max(took for _, took in taken) < 0.5 * 1.2


def test_prompts_get_on_however_long_a_pass_takes():
    assert (
        min(num_tokens for num_tokens, _ in passes([500], seconds=lambda chunks: 0.1 + len(chunks))[:-1]) >= MIN_TOKENS
    )


def test_one_slow_pass_is_forgotten():
    """A neighbour's hiccup must not leave a prompt with tiny chunks."""
    pacer = ChunkPacer(max_seconds=LIMIT, max_tokens=512)
    pacer.observe(128, 30.0)
    assert pacer.num_tokens == 64
    pacer.observe(5, 0.03)  # a short prompt says nothing about how much would fit
    assert pacer.num_tokens == 64
    for _ in range(3):
        pacer.observe(pacer.num_tokens, 0.0005 * pacer.num_tokens)
    assert pacer.num_tokens == 400
