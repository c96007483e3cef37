"""Speculative decoding: the same answers in fewer passes, whatever the drafts are worth, and no block lost."""

import random
from typing import Any

import pytest
from llm.errors import EngineError
from llm.sampler import Draw

from tests.engine.fakes import RecordingSink, RepeatingSampler, counting_engine, repeating, submit
from tests.engine.test_engine import run_to_end


def answer(prompt: list[int], count: int, ends: frozenset[int] = frozenset()) -> list[int]:
    """What a `RepeatingSampler` makes of a prompt."""
    token_ids = list(prompt)
    while len(token_ids) < len(prompt) + count:
        token_ids.append(repeating(token_ids))
        if token_ids[-1] in ends:
            break
    return token_ids[len(prompt) :]


def engine_with(speculative_tokens: int, **options: Any) -> Any:
    return counting_engine(
        sampler=RepeatingSampler(), speculative_tokens=speculative_tokens, **{"max_model_len": 200, **options}
    )


@pytest.mark.parametrize("num_streams", [1, 2, 5])
def test_answers_are_the_same_and_take_fewer_passes(num_streams: int):
    prompts = [[number, 1, 2, 3] for number in range(num_streams)]
    num_passes = []
    for speculative_tokens in (0, 7):
        engine, runner = engine_with(speculative_tokens, num_blocks=400)
        sinks = [submit(engine, prompt, max_tokens=60)[1] for prompt in prompts]
        run_to_end(engine, sinks)
        assert [sink.token_ids[0] for sink in sinks] == [answer(prompt, 60) for prompt in prompts]
        num_passes.append(len(runner.passes))
        load = engine.load
    assert num_passes[0] == 60
    assert num_passes[1] < 50
    assert 0 < load.num_accepted_tokens < load.num_drafted_tokens
    assert load.num_accepted_tokens >= 60 - num_passes[1]


def test_a_pass_has_no_more_rows_than_it_may_and_none_beside_prompts():
    engine, runner = engine_with(3, num_blocks=400, max_batch_size=8)
    first = submit(engine, [1, 2, 3, 1, 2, 3, 1, 2], max_tokens=40)[1]
    for _ in range(5):
        engine.step()
    others = [submit(engine, [number] * 9, max_tokens=30)[1] for number in (5, 6, 7, 8, 9)]
    run_to_end(engine, [first, *others])
    for chunks in runner.passes:
        drafted = [chunk for chunk in chunks if chunk.drafted_for is not None]
        if drafted:
            assert len(chunks) <= 4
            assert all(chunk.num_tokens == 1 for chunk in chunks)
    assert any(len(chunks) == 4 and chunks[-1].drafted_for for chunks in runner.passes)


def test_a_batch_of_one_place_has_drafts_too():
    engine, runner = engine_with(7, num_blocks=400, max_batch_size=1)
    sinks = [submit(engine, [1, 2, 3, 1, 2, 3], max_tokens=40)[1] for _ in range(2)]
    run_to_end(engine, sinks)
    assert all(sink.token_ids[0] == answer([1, 2, 3, 1, 2, 3], 40) for sink in sinks)
    assert max(len(chunks) for chunks in runner.passes) > 2


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_an_answer_never_becomes_longer_than_it_may(max_tokens: int):
    engine, runner = engine_with(7, num_blocks=8, block_size=4, max_model_len=32)
    sink = submit(engine, [2] * 8, max_tokens=max_tokens)[1]
    run_to_end(engine, [sink])
    assert sink.token_ids[0] == answer([2] * 8, max_tokens)
    assert max(chunk.end for chunks in runner.passes for chunk in chunks) <= 8 + max_tokens
    assert engine.scheduler.pool.num_free == 8


def test_nothing_is_said_behind_the_end_though_a_draft_went_on():
    prompt = [3, 1, 2, 3, 1, 2]
    ends = frozenset({answer(prompt, 30)[17]})
    engine, _ = engine_with(7, num_blocks=100)
    sink = submit(engine, prompt, max_tokens=60, stop_token_ids=tuple(ends))[1]
    run_to_end(engine, [sink])
    assert sink.token_ids[0] == answer(prompt, 60, ends)
    assert sink.reasons == {0: "stop"}


def test_a_choice_whose_end_was_drafted_ends_there_while_another_goes_on():
    class Counting(RepeatingSampler):
        def start(self, logits: Any, sequences: Any) -> Any:
            return lambda: [
                Draw(100 + len(sequence.token_ids) if sequence.index else 1 + len(sequence.token_ids) % 6)
                for sequence in sequences
            ]

    engine, runner = counting_engine(sampler=Counting(), speculative_tokens=7, max_model_len=200, num_blocks=100)
    sink = submit(engine, [1, 2, 3, 4, 5, 6] * 3, max_tokens=20, n=2, stop_token_ids=(6,))[1]
    run_to_end(engine, [sink])
    assert sink.token_ids == {0: [1, 2, 3, 4, 5, 6], 1: list(range(118, 138))}
    assert any(chunk.sequence.token_ids[-1] == 6 for chunks in runner.passes for chunk in chunks if chunk.drafted_for)


def test_the_cache_names_what_was_accepted_and_nothing_else():
    """A block that is found again holds the tokens of its name: the runner looks at each."""
    engine, _ = engine_with(7, num_blocks=100, block_size=4)
    prompt = [1, 2, 3, 1, 2, 3]
    first = submit(engine, prompt, max_tokens=40)[1]
    run_to_end(engine, [first])
    again = submit(engine, prompt + first.token_ids[0] + [9, 9], max_tokens=8)[1]
    run_to_end(engine, [again])
    assert again.num_reused == 44
    assert again.token_ids[0] == answer(prompt + first.token_ids[0] + [9, 9], 8)


def test_a_request_whose_logits_are_changed_gets_no_drafts():
    engine, runner = engine_with(7, num_blocks=100)
    sink = submit(engine, [1] * 8, max_tokens=20, frequency_penalty=0.1)[1]
    run_to_end(engine, [sink])
    assert [len(chunks) for chunks in runner.passes] == [1] * 20


def test_a_row_that_gives_no_token_fails_its_request_only_if_its_draft_was_accepted():
    class Failing(RepeatingSampler):
        def start(self, logits: Any, sequences: Any) -> Any:
            return lambda: [
                EngineError("no") if len(sequence.token_ids) == 20 else Draw(repeating(sequence.token_ids))
                for sequence in sequences
            ]

    engine, _ = counting_engine(sampler=Failing(), speculative_tokens=7, max_model_len=200, num_blocks=100)
    sink = submit(engine, [1, 2, 3, 1, 2, 3], max_tokens=60)[1]
    run_to_end(engine, [sink])
    assert isinstance(sink.error, EngineError)
    assert sink.token_ids[0] == answer([1, 2, 3, 1, 2, 3], 14)


@pytest.mark.parametrize("seed", range(60))
def test_random_arrivals_and_cancels_get_the_same_answers_and_leak_nothing(seed: int):
    random_ = random.Random(seed)
    num_blocks = random_.randint(5, 14)
    engine, _ = engine_with(
        random_.choice([1, 3, 7]),
        num_blocks=num_blocks,
        block_size=4,
        max_batch_size=random_.randint(1, 6),
        max_batch_tokens=random_.randint(1, 12),
        max_model_len=20,
    )
    requests: list[tuple[Any, RecordingSink, list[int], int]] = []
    for _ in range(80):
        if random_.random() < 0.3:
            prompt = [random_.choice([1, 1, 2]) for _ in range(random_.randint(1, 19))]
            count = random_.randint(1, 20)
            requests.append((*submit(engine, prompt, max_tokens=count, n=random_.choice([1, 1, 2])), prompt, count))
        if requests and random_.random() < 0.1:
            engine.cancel(random_.choice(requests)[0])
        engine.step()
    run_to_end(engine, [sink for _, sink, *_ in requests])
    engine.step()
    for _, sink, prompt, count in requests:
        assert sink.num_ends == 1
        wanted = answer(prompt, min(count, 20 - len(prompt)))
        for token_ids in sink.token_ids.values():
            assert token_ids == (wanted[: len(token_ids)] if sink.was_cancelled else wanted)
    assert engine.scheduler.pool.num_free == num_blocks
