"""Draws tokens on a CPU, a row each, in one compiled loop. Engine thread.

A pass over the weights leaves nothing else in the caches, and the draws of `llm.drawing` call some hundred of torch's
operations: 1.3 ms for one row, and 5 for 32.

A token is drawn from the whole vocabulary, and again if the filters do not keep it: those kept are distributed as they
should be, and nothing has to be sorted.
"""

from collections.abc import Sequence as Rows
from typing import Any

import numpy as np
import torch
from numba import carray

from llm import noise
from llm.compiled import ParallelLoop, Step, bits, inlined
from llm.drawing import ATTEMPT, MAX_ATTEMPTS, MISSED, SEGMENT, settings_of
from llm.intrinsics import address, exp, float_of, num_threads, thread_number
from llm.sequence import Sequence

_F32, _U64 = np.float32, np.uint64

_STEP, _FIRST, _SECOND = (_U64(constant % 2**64) for constant in (noise.STEP, *noise.MULTIPLIERS))
_NUM_UNIFORM = float(noise.NUM_UNIFORM)

# What the loop reads of a row, and where it writes the token.
_ROW, _KEY, _TEMPERATURE, _TOP_K, _TOP_P, _MIN_P, _TOKEN = range(7)
_TICKET = 7


def draw_alone(logits: torch.Tensor, sequences: Rows[Sequence], rows: Rows[int]) -> list[int]:
    """One token for each of some rows, whose sequences are judged alone.

    Args:
        logits: `[rows, vocabulary]` float32; of each row some number is finite, and none is NaN or infinity.
        sequences: the rows' owners.
        rows: which.

    Returns:
        Tokens; `MISSED` where the filters let so little through that no attempt met it.
    """
    vocabulary = logits.shape[1]
    tickets = torch.tensor([_ticket(row, sequences[row], vocabulary) for row in rows], dtype=torch.int64)
    threads = min(len(rows), torch.get_num_threads())
    weights = logits.new_empty(threads, vocabulary)
    step = Step.of(_draw, len(rows), vocabulary, logits.stride(0), logits, tickets, weights)
    step.loop(threads, *step.arguments)
    tokens: list[int] = tickets[:, _TOKEN].tolist()
    return tokens


def _ticket(row: int, sequence: Sequence, vocabulary: int) -> tuple[int, ...]:
    key, temperature, top_k, top_p, min_p = settings_of(sequence, vocabulary)
    return row, key, bits(temperature), top_k, bits(top_p), bits(min_p), MISSED


@inlined
def _ordered(number_bits: Any) -> Any:
    """The bits of a float32 as a number that compares as it does, and back: integers are compared side by side."""
    return number_bits ^ ((number_bits >> 31) & 0x7FFFFFFF)


@inlined
def _gumbel(key: Any, counter: Any) -> Any:
    """See `llm.noise.gumbel`."""
    mixed = key + _U64(counter) * _STEP
    mixed = (mixed ^ (mixed >> _U64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> _U64(27))) * _SECOND
    mixed ^= mixed >> _U64(31)
    uniform = (np.float64(mixed >> _U64(12)) + 0.5) / _NUM_UNIFORM
    return -np.log(-np.log(uniform))


@inlined
def _weigh(logits: Any, as_bits: Any, scale: Any, weights: Any) -> None:
    """The weights of all tokens; the largest is 1."""
    highest = np.int32(-0x80000000)
    for i in range(len(logits)):
        highest = max(highest, _ordered(as_bits[i]))
    largest = float_of(np.int32(_ordered(highest)))
    for i in range(len(logits)):
        weights[i] = exp((logits[i] - largest) * scale)


@inlined
def _attempt(weights: Any, key: Any, number: Any) -> Any:
    """A token, drawn from all by `llm.drawing`'s noise: first a segment, then a token of it."""
    vocabulary = len(weights)
    num_segments = vocabulary // SEGMENT + 1
    segment, best = 0, -np.inf
    for candidate in range(num_segments):
        mass = _F32(0)
        for i in range(candidate * SEGMENT, min((candidate + 1) * SEGMENT, vocabulary)):
            mass += weights[i]
        value = np.log(np.float64(mass)) + _gumbel(key, candidate - num_segments - number * ATTEMPT)
        if value > best:
            segment, best = candidate, value
    token, best = 0, -np.inf
    for i in range(segment * SEGMENT, min((segment + 1) * SEGMENT, vocabulary)):
        value = np.log(np.float64(weights[i])) + _gumbel(key, i + number * ATTEMPT)
        if value > best:
            token, best = i, value
    return token


@inlined
def _is_kept(weights: Any, token: Any, top_k: Any, top_p: Any, min_p: Any) -> Any:
    """Whether the filters keep a token; the most likely one they do in any case."""
    weight, above, mass, total = weights[token], 0, _F32(0), _F32(0)
    for i in range(len(weights)):
        is_above = weights[i] > weight
        above += is_above
        mass += weights[i] if is_above else _F32(0)
        total += weights[i]
    if above == 0:
        return True
    return above < top_k and (top_p >= 1 or mass < top_p * total) and weight >= min_p


@ParallelLoop
def _draw(arguments: Any) -> None:
    numbers = carray(arguments, 6)
    rows, vocabulary, stride, logits = numbers[0], numbers[1], numbers[2], numbers[3]
    tickets = carray(address(numbers[4]), (rows, _TICKET), np.int64)
    weights = carray(address(numbers[5] + 4 * vocabulary * thread_number()), vocabulary, _F32)
    for row in range(thread_number(), rows, num_threads()):
        ticket = tickets[row]
        first = address(logits + 4 * stride * ticket[_ROW])
        scale = _F32(1) / float_of(np.int32(ticket[_TEMPERATURE]))
        _weigh(carray(first, vocabulary, _F32), carray(first, vocabulary, np.int32), scale, weights)
        top_k, key = ticket[_TOP_K], _U64(ticket[_KEY])
        top_p, min_p = float_of(np.int32(ticket[_TOP_P])), float_of(np.int32(ticket[_MIN_P]))
        for number in range(MAX_ATTEMPTS):
            token = _attempt(weights, key, number)
            if _is_kept(weights, token, top_k, top_p, min_p):
                ticket[_TOKEN] = token
                break
