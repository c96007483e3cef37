"""What requests ask to be changed in the logits, against transformers' processors where it has one."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from llm.errors import DeadlineError, EngineError, InvalidRequestError
from llm.logits import LogitsRule
from llm.request import SamplingParams
from llm.sampler import Draw, Drawing, Sampler
from llm.token_mask import TokenMasks
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor

from tests.engine.fakes import END, counting_engine, submit
from tests.engine.test_sampler import sequence

VOCABULARY = 100
PROMPT = [3, 5, 5, 7]
ANSWER = [7, 11, 11, 11, 42]
NUM_DRAWS = 10_000


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def rule(*, ends: frozenset[int] = frozenset(), **settings: Any) -> LogitsRule:
    made = LogitsRule(SamplingParams(**settings), PROMPT, ends)
    for token in ANSWER:
        made.advance(token)
    return made


def changed(row: torch.Tensor, **settings: Any) -> torch.Tensor:
    result = row.clone()
    rule(**settings).apply(result)
    return result


def test_repeated_tokens_are_penalised_as_transformers_does():
    row = logits()
    wanted = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([PROMPT + ANSWER]), row[None])[0]
    assert torch.allclose(changed(row, repetition_penalty=1.3), wanted)


def test_presence_and_frequency_follow_openais_formula():
    row = logits()
    wanted = row.clone()
    for token in set(ANSWER):
        wanted[token] -= 0.5 + 0.25 * ANSWER.count(token)
    assert torch.allclose(changed(row, presence_penalty=0.5, frequency_penalty=0.25), wanted)


def test_biases_are_added_before_the_penalties():
    row = logits()
    wanted = row.clone()
    wanted[11] = (row[11] + 50) / 2
    wanted[8] += -100
    for token in {*PROMPT, *ANSWER} - {11}:
        wanted[token] = row[token] / 2 if row[token] > 0 else row[token] * 2
    assert torch.allclose(changed(row, logit_bias=((11, 50.0), (8, -100.0)), repetition_penalty=2.0), wanted)


def test_end_tokens_cannot_be_drawn_before_min_tokens():
    row = logits()
    ends = frozenset({1, 2})
    early, late = changed(row, ends=ends, min_tokens=6), changed(row, ends=ends, min_tokens=5)
    assert early[[1, 2]].tolist() == [-math.inf] * 2
    assert torch.equal(late, row)


class Odd:
    """Allows odd tokens, and remembers what was drawn."""

    def __init__(self) -> None:
        self.drawn: list[int] = []

    must_end = False

    def fill(self, mask: np.ndarray) -> None:
        assert mask.shape == (-(-VOCABULARY // 32),)
        mask.fill(-1431655766)  # binary 1010...

    def advance(self, token_id: int) -> None:
        self.drawn.append(token_id)


def test_a_constraint_masks_what_it_does_not_allow_and_is_told_what_was_drawn():
    constraint = Odd()
    owners = [sequence(), sequence(), sequence()]
    owners[1].logits_rule = LogitsRule(SamplingParams(), PROMPT, frozenset(), constraint)
    rows = torch.stack([logits(1), logits(2), logits(3)])
    masks, result = TokenMasks(owners, VOCABULARY), rows.clone()
    masks.apply(result)
    assert result[1, ::2].isinf().all()
    assert torch.equal(result[1, 1::2], rows[1, 1::2])
    assert torch.equal(result[[0, 2]], rows[[0, 2]])
    owners[1].append(42)
    assert constraint.drawn == [42]


class Nothing(Odd):
    """Allows no token at all."""

    def fill(self, mask: np.ndarray) -> None:
        pass


def test_a_constraint_that_allows_nothing_fails_its_own_row_alone():
    owners = [sequence(seed=1), sequence(seed=2)]
    owners[0].logits_rule = LogitsRule(SamplingParams(), PROMPT, frozenset(), Nothing())
    rows = torch.stack([logits(1), logits(2)])
    failed, drawn = Sampler().sample(rows.clone(), owners)
    assert isinstance(failed, EngineError)
    assert drawn == Sampler().sample(rows[1:].clone(), owners[1:])[0]


def test_min_tokens_gives_way_where_nothing_but_the_end_may_follow():
    constraint = Odd()
    constraint.must_end = True
    row = logits()
    LogitsRule(SamplingParams(min_tokens=9), PROMPT, frozenset({1}), constraint).apply(row)
    assert row[1].isfinite()


def test_a_request_that_asks_for_nothing_has_no_rule():
    assert not LogitsRule.is_needed(SamplingParams(temperature=0.3, top_k=3, min_p=0.1, logprobs=2, max_tokens=3))


def chi_squared_p(row: torch.Tensor, probabilities: torch.Tensor, **settings: Any) -> float:
    """How likely draws of the sampler are to be this far from the distribution by chance."""
    owners = [sequence(seed=seed, **settings) for seed in range(NUM_DRAWS)]
    counts = torch.zeros(len(row), dtype=torch.double)
    for owner_group in (owners[at : at + 1000] for at in range(0, NUM_DRAWS, 1000)):
        for draw in Sampler().sample(row.expand(1000, -1).clone(), owner_group):
            assert isinstance(draw, Draw)
            counts[draw.token_id] += 1
    assert counts[probabilities == 0].sum() == 0, "a token that is filtered out was drawn"
    expected = probabilities[probabilities > 0] * NUM_DRAWS
    statistic = ((counts[probabilities > 0] - expected) ** 2 / expected).sum()
    freedom = max(1, int((probabilities > 0).sum()) - 1)
    return float(torch.special.gammaincc(torch.tensor(freedom / 2), statistic.float() / 2))


@pytest.mark.parametrize("min_p", [0.02, 0.2, 1.0])
@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_min_p_draws_from_transformers_distribution(min_p: float, temperature: float):
    row = logits(4)
    kept = MinPLogitsWarper(min_p)(torch.zeros(1, 1), row[None] / temperature)[0]
    assert chi_squared_p(row, kept.double().softmax(-1), min_p=min_p, temperature=temperature) > 1e-4


@pytest.mark.parametrize("vocabulary", [100, 3000])
def test_min_p_joins_top_k_and_top_p(vocabulary: int):
    row = torch.randn(vocabulary, generator=torch.Generator().manual_seed(9)) * 3
    probabilities = row.double().softmax(-1)
    order = probabilities.argsort(descending=True)[:40]
    kept = torch.zeros_like(probabilities)
    mass, total = 0.0, probabilities[order].sum()
    for token in order:
        if mass / total >= 0.9 or probabilities[token] < 0.05 * probabilities.max():
            break
        kept[token] = probabilities[token]
        mass += float(probabilities[token])
    assert chi_squared_p(row, kept / kept.sum(), min_p=0.05, top_k=40, top_p=0.9) > 1e-4


def test_log_probabilities_are_the_models_own_whatever_the_settings():
    row = logits(5)
    owner = sequence(temperature=0.5, top_k=3)
    owner.logprobs = 4
    owner.logits_rule = rule(logit_bias=((9, 100.0),))
    (draw,) = Sampler().sample(row[None].clone(), [owner])
    assert isinstance(draw, Draw)
    assert draw.logprobs is not None
    wanted = row.log_softmax(-1)
    assert draw.token_id == draw.logprobs.token_id == 9
    assert draw.logprobs.logprob == pytest.approx(float(wanted[9]))
    assert [token for token, _ in draw.logprobs.top] == wanted.topk(4).indices.tolist()
    assert [logprob for _, logprob in draw.logprobs.top] == pytest.approx(wanted.topk(4).values.tolist())


def test_a_row_of_no_numbers_is_told_apart_from_its_neighbours():
    """One row of NaN failed every request of the pass."""
    rows = torch.stack([logits(1), torch.full((VOCABULARY,), math.nan), logits(2)])
    owners = [sequence(seed=1), sequence(seed=2, temperature=0.0), sequence(seed=3)]
    draws = Sampler().sample(rows.clone(), owners)
    assert isinstance(draws[1], EngineError)
    assert draws[0] == Sampler().sample(rows[:1].clone(), owners[:1])[0]
    assert draws[2] == Sampler().sample(rows[2:].clone(), owners[2:])[0]


class BrokenRow:
    """A sampler that finds no numbers in the rows of one prompt."""

    def start(self, logits: Any, sequences: Any) -> Drawing:
        return lambda: [EngineError("NaN") if s.token_ids[0] == 50 else Draw(s.token_ids[-1] + 1) for s in sequences]


def test_a_request_without_numbers_fails_alone():
    engine, _ = counting_engine()
    engine._sampler = BrokenRow()
    _, broken = submit(engine, [50], max_tokens=4, n=2)
    _, sound = submit(engine, [60], max_tokens=2)
    for _ in range(4):
        engine.step()
    assert isinstance(broken.error, EngineError)
    assert broken.num_ends == 1
    assert sound.token_ids == {0: [61, 62]}
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


def test_the_models_end_can_be_ignored_and_the_requests_own_end_cannot():
    engine, _ = counting_engine()
    _, ignoring = submit(engine, [END - 2], max_tokens=4, ignore_eos=True)
    _, own = submit(engine, [END - 2], max_tokens=9, ignore_eos=True, stop_token_ids=(END + 1,))
    for _ in range(6):
        engine.step()
    assert (ignoring.token_ids[0], ignoring.reasons[0]) == ([END - 1, END, END + 1, END + 2], "length")
    assert (own.token_ids[0], own.reasons[0]) == ([END - 1, END, END + 1], "stop")


@pytest.mark.parametrize("is_waiting", [False, True])
def test_a_request_past_its_deadline_fails_running_or_waiting_and_frees_its_blocks(is_waiting: bool):
    engine, _ = counting_engine(max_batch_size=1)
    if is_waiting:
        submit(engine, [1], max_tokens=50)
        engine.step()
    _, late = submit(engine, [2], max_tokens=50, timeout=1e-6)
    _, patient = submit(engine, [3], max_tokens=1, timeout=1000.0)
    for _ in range(60):
        engine.step()
    assert isinstance(late.error, DeadlineError)
    assert late.num_ends == 1
    assert patient.token_ids == {0: [4]}
    assert not engine._deadlines
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


@pytest.mark.parametrize(
    ("settings", "param"),
    [({"logit_bias": ((10**6, 1.0),)}, "logit_bias"), ({"stop_token_ids": (-1,)}, "stop_token_ids")],
)
def test_tokens_that_do_not_exist_are_refused_by_name(settings: dict[str, Any], param: str):
    engine, _ = counting_engine()
    with pytest.raises(InvalidRequestError) as refusal:
        submit(engine, [1], **settings)
    assert refusal.value.param == param
    with pytest.raises(InvalidRequestError) as refusal:
        submit(engine, [10**6])
    assert refusal.value.param == "input_ids"
