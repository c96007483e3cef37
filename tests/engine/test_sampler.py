"""The sampler draws from the exact distribution, row by row, and a seed decides the draw."""

import math

import pytest
import torch
from llm import cpu_drawing, drawing, sampler
from llm.drawing import MISSED
from llm.noise import choice_seed, draw_key, gumbel
from llm.request import GenerationRequest, SamplingParams, Submission
from llm.sampler import Draw, Sampler
from llm.sequence import Sequence

from tests.engine.fakes import RecordingSink

NUM_DRAWS = 10_000


@pytest.fixture(autouse=True, params=["compiled", "by torch's operations"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test draws as a CPU does, and as a GPU does."""
    if request.param != "compiled":
        monkeypatch.setattr(sampler, "is_judged_alone", lambda _: False)


def drawn_from(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    draws = Sampler().sample(logits.clone(), sequences)
    return [draw.token_id for draw in draws if isinstance(draw, Draw)]


def sequence(
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    seed: int = 1,
    position: int = 3,
) -> Sequence:
    submission = Submission(GenerationRequest((1,), SamplingParams()), RecordingSink())
    return Sequence(
        submission=submission,
        index=0,
        token_ids=[1] * position,
        max_length=100,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        end_token_ids=frozenset(),
        min_p=min_p,
    )


def exact(
    logits: torch.Tensor, *, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> torch.Tensor:
    """The distribution by definition: scale, keep the k best, keep the nucleus, drop the unlikely, renormalise."""
    probabilities = (logits.double() / temperature).softmax(-1)
    order = probabilities.argsort(descending=True)
    kept = torch.zeros_like(probabilities)
    mass = 0.0
    best = order[: top_k or len(order)]
    total = probabilities[best].sum()
    for token in best:
        if mass / total >= top_p:
            break
        kept[token] = probabilities[token]
        mass += float(probabilities[token])
    kept[probabilities < min_p * probabilities.max()] = 0
    return kept / kept.sum()


@pytest.mark.parametrize("vocabulary", [12, 300, 512])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 5},
        {"top_k": 100},
        {"top_p": 0.3},
        {"top_p": 0.95},
        {"top_p": 0.999},
        {"top_k": 4, "top_p": 0.7},
        {"top_k": 200, "top_p": 0.9, "temperature": 1.5},
        {"min_p": 0.02},
        {"min_p": 0.01, "top_p": 0.97, "temperature": 1.5},
        {"min_p": 0.3, "top_k": 120},
        {"top_p": 0.01},
    ],
    ids=str,
)
def test_draws_follow_the_exact_distribution(vocabulary: int, settings: dict[str, float]):
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(7)) * 1.5
    expected = exact(logits, **settings)  # type: ignore[arg-type]
    counts = torch.zeros(vocabulary)
    rows = 500
    for block in range(NUM_DRAWS // rows):
        owners = [sequence(seed=block * rows + row, **settings) for row in range(rows)]  # type: ignore[arg-type]
        for token in drawn_from(logits.expand(rows, -1), owners):
            counts[token] += 1
    assert counts[expected == 0].sum() == 0
    # Pearson's statistic over the tokens expected at least 5 times; its mean is the degrees of freedom.
    big = expected * NUM_DRAWS >= 5
    observed = torch.cat([counts[big], counts[~big].sum()[None]])
    wanted = torch.cat([expected[big], expected[~big].sum()[None]]) * NUM_DRAWS
    keep = wanted > 0
    statistic = float(((observed - wanted)[keep] ** 2 / wanted[keep]).sum())
    freedom = max(1, int(keep.sum()) - 1)
    assert statistic < freedom + 4.5 * math.sqrt(2 * freedom)


def test_a_draw_depends_on_its_own_row_alone():
    logits = torch.randn(40, 200, generator=torch.Generator().manual_seed(3))
    kinds = [
        {},
        {"top_p": 0.9},
        {"top_k": 10},
        {"temperature": 0.0},
        {"top_p": 0.999, "temperature": 2.0},
        {"top_p": 0.9, "top_k": 150, "temperature": 2.0},
    ]
    owners = [sequence(seed=row, **kinds[row % len(kinds)]) for row in range(40)]  # type: ignore[arg-type]
    together = drawn_from(logits, owners)
    alone = [drawn_from(logits[row : row + 1], [owners[row]])[0] for row in range(40)]
    assert together == alone


@pytest.mark.parametrize("vocabulary", [1, 5, 255, 256, 257, 50_257])
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"top_k": 30}, {"min_p": 0.1}], ids=str)
def test_both_ways_draw_alike(vocabulary: int, settings: dict[str, float]):
    """By the same noise: a compiled attempt is the token that torch's same attempt is, kept or not."""
    logits = torch.randn(40, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 3
    logits[:, 1::3] = -math.inf
    owners = [sequence(seed=row, position=1 + row % 7, **settings) for row in range(40)]  # type: ignore[arg-type]
    drawn = cpu_drawing.draw_alone(logits, owners, range(40))
    distributions = drawing.Distributions.of(logits, owners)
    expected = torch.full((40,), MISSED)
    for attempt in reversed(range(drawing.MAX_ATTEMPTS)):
        tokens, is_kept = drawing._draw_from_all(distributions, attempt)
        expected = torch.where(is_kept, tokens, expected)
    assert drawn == expected.tolist()
    some = [31, 4, 17]
    assert cpu_drawing.draw_alone(logits, owners, some) == [drawn[row] for row in some]


def test_a_draw_that_misses_the_filters_says_so():
    flat = [sequence(top_k=1, seed=seed) for seed in range(50)]
    drawn = cpu_drawing.draw_alone(torch.linspace(0, 0.01, 5000).repeat(50, 1), flat, range(50))
    assert set(drawn) <= {MISSED, 4999}
    assert MISSED in drawn


def test_greedy_takes_the_most_likely_token():
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(3))
    assert drawn_from(logits, [sequence(temperature=0.0)] * 6) == logits.argmax(-1).tolist()


def test_a_nucleus_wider_than_the_candidates_is_drawn_as_a_whole():
    narrow, wide = drawing.NUM_CANDIDATES, 1024
    flat = torch.zeros(1, wide * 4)
    drawn = set(drawn_from(flat.expand(2000, -1), [sequence(top_p=0.99, seed=seed) for seed in range(2000)]))
    assert len(drawn) > wide
    some = torch.zeros(1, wide * 4)
    some[0, : narrow * 4] = 20.0
    drawn = set(drawn_from(some.expand(400, -1), [sequence(top_p=0.99, seed=seed) for seed in range(400)]))
    assert len(drawn) > narrow
    assert max(drawn) < narrow * 4


def test_a_row_that_misses_its_nucleus_again_and_again_is_drawn_all_the_same():
    """The nucleus is a hundredth of the mass, and wider than the candidates: a hundred attempts would miss it."""
    logits = torch.linspace(0, 0.1, 10_000)
    expected = set(exact(logits, top_p=0.01).nonzero()[:, 0].tolist())
    assert len(expected) > drawing.NUM_CANDIDATES
    owners = [sequence(top_p=0.01, seed=seed) for seed in range(100)]
    drawn = drawn_from(logits.expand(100, -1), owners)
    assert set(drawn) <= expected
    assert len(set(drawn)) > 40


def test_noise_is_gumbels_and_differs_by_seed_position_choice_and_token():
    keys = torch.tensor([[draw_key(seed, position)] for seed in range(20) for position in range(20)])
    noise = gumbel(keys, torch.arange(-250, 250)[None])
    assert torch.equal(noise, gumbel(keys, torch.arange(-250, 250)[None]))
    assert len(noise.unique()) == noise.numel()
    uniform = torch.exp(-torch.exp(-noise))
    counts = uniform.flatten().histc(bins=100, min=0, max=1)
    expected = noise.numel() / 100
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < 99 + 4.5 * math.sqrt(2 * 99)
    neighbours = torch.corrcoef(torch.stack([uniform[:, :-1].flatten(), uniform[:, 1:].flatten()]))
    assert abs(float(neighbours[0, 1])) < 0.01
    assert draw_key(-1, 0) == draw_key(2**64 - 1, 0)
    assert len({choice_seed(5, index) for index in range(8)}) == 8


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"min_p": 0.001}], ids=str)
def test_a_draw_survives_the_rounding_of_another_batch(settings: dict[str, float]):
    """A product over other rows rounds otherwise. Tokens drawn by their place in a running sum moved with it.

    Of 1,000 draws each, 1, 11 and 11 came out as another token.
    """
    generator = torch.Generator().manual_seed(11)
    changed = 0
    for block in range(20):
        logits = torch.randn(50, 49_152, generator=generator) * 2.5
        rounded = logits * (1 + 1e-6 * torch.randn(logits.shape, generator=generator))
        owners = [sequence(seed=50 * block + row, temperature=1.5, **settings) for row in range(50)]  # type: ignore[arg-type]
        pairs = zip(drawn_from(logits, owners), drawn_from(rounded, owners), strict=True)
        changed += sum(one != other for one, other in pairs)
    assert changed == 0


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.5}, {"top_k": 3}])
@pytest.mark.parametrize("temperature", [1e-9, 1e-40, 5e-324])
def test_a_temperature_near_zero_is_greedy_and_harms_nobody_in_the_pass(temperature: float, settings: dict[str, float]):
    """Dividing by 1e-40 gave infinities and NaN, and the whole pass failed: one client ended everybody's answer."""
    logits = torch.linspace(-40, 40, 300).repeat(2, 1)
    cold, other = sequence(temperature=temperature, **settings), sequence(seed=2)  # type: ignore[arg-type]
    alone = drawn_from(logits[1:], [other])
    assert drawn_from(logits, [cold, other]) == [299, *alone]


def test_a_top_k_beyond_every_number_keeps_all_tokens():
    """It overflowed a float, and the whole pass failed."""
    logits = torch.linspace(-2, 2, 300)[None]
    assert drawn_from(logits, [sequence(top_k=10**400)]) == drawn_from(logits, [sequence(top_k=300)])
