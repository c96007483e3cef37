"""What a GPU's kernel and graphs are given is right: the same code with the kernel's definition in its place.

tests/gpu has what can only be seen on a GPU.
"""

from functools import partial
from typing import Any

import pytest
import torch
from llm.attention import IMPLEMENTATION
from llm.block_pool import BlockPool
from llm.cuda_runner import CudaRunner
from llm.decode_graphs import padded, row_counts
from llm.decoder import build_decoder
from llm.engine import Engine
from llm.kv_cache import KVCache
from llm.limits import ModelLimits
from llm.linear import plain_linear
from llm.pass_inputs import PassInputs
from llm.probe import probe_layers
from llm.request import GenerationRequest, SamplingParams, Submission
from llm.sampler import Sampler
from llm.scheduler import Chunk, Scheduler
from llm.sequence import Sequence
from llm.varlen_batch import VarlenBatch, _attend_jointly, computes_attention, find_varlen_attention

from tests.engine.fakes import RecordingSink, submit
from tests.engine.test_exactness import NUM_NEW, expected, prompts
from tests.engine.tiny_models import VOCABULARY, build_model
from tests.engine.varlen_reference import varlen_reference

CPU = torch.device("cpu")
BLOCK = 8


class Parts:
    """An engine as the loader builds it for a GPU, on a CPU, with small blocks."""

    def __init__(self, family: str, *, max_batch_tokens: int = 512, num_blocks: int = 100) -> None:
        model = build_model(family)
        model.set_attn_implementation(IMPLEMENTATION)
        rules = probe_layers(model)
        self.decoder = build_decoder(model, rules, plain_linear)
        shapes = {number: rule.shape for number, rule in rules.items()}
        self.cache = KVCache(shapes, num_blocks, block_size=BLOCK, dtype=torch.float32, device=CPU)
        self.engine = Engine(
            CudaRunner(self.decoder, self.cache, partial(_attend_jointly, varlen_reference)),
            Sampler(),
            Scheduler(
                BlockPool(num_blocks, BLOCK),
                max_batch_size=16,
                max_batch_tokens=max_batch_tokens,
                max_pass_seconds=1.0,
            ),
            ModelLimits(
                max_model_len=200,
                vocabulary_size=VOCABULARY,
                end_token_ids=frozenset({257}),
                defaults=SamplingParams(),
            ),
            max_queue_size=100,
        )

    def answers(self, requests: list[list[int]]) -> list[list[int]]:
        sinks = [submit(self.engine, prompt, max_tokens=NUM_NEW, temperature=0.0)[1] for prompt in requests]
        while not all(sink.ended.is_set() for sink in sinks):
            self.engine.step()
        assert all(sink.error is None for sink in sinks)
        return [sink.token_ids[0] for sink in sinks]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gpt2", "mixtral"])
def test_greedy_ids_equal_generate_alone_in_a_crowd_reused_chunked_and_preempted(family: str):
    requests = prompts(6)
    reference = build_model(family)
    wanted = [expected(reference, prompt) for prompt in requests]
    crowd = Parts(family)
    assert crowd.answers(requests) == wanted
    assert crowd.answers(requests[1:2]) == wanted[1:2]
    assert crowd.answers(requests) == wanted
    assert Parts(family, max_batch_tokens=7).answers(requests) == wanted
    cramped = Parts(family, num_blocks=10)
    assert cramped.answers(requests) == wanted
    assert cramped.engine.scheduler.num_preemptions > 0


def decoding(lengths: list[int]) -> list[Chunk]:
    """Chunks of one token, whose sequences lie in blocks from the cache's end backwards."""
    chunks, block = [], 99
    for number, length in enumerate(lengths):
        table = list(range(block, block - -(-length // BLOCK), -1))
        block -= len(table)
        sequence = Sequence(
            submission=Submission(GenerationRequest((1,), SamplingParams()), RecordingSink()),
            index=0,
            token_ids=[(7 * number + at) % 250 for at in range(length)],
            max_length=200,
            temperature=0.0,
            top_p=1.0,
            top_k=0,
            seed=0,
            end_token_ids=frozenset(),
            block_table=table,
        )
        chunks.append(Chunk(sequence, length - 1, 1))
    return chunks


@torch.inference_mode()
def logits_of(parts: Parts, inputs: PassInputs) -> torch.Tensor:
    batch = VarlenBatch(parts.cache, inputs, varlen_reference)
    return parts.decoder(inputs.token_ids, inputs.positions, inputs.sampled, batch)


def test_rows_that_fill_a_graph_up_change_nothing():
    plain, full = Parts("llama"), Parts("llama")
    chunks = decoding([5, 17, 8])
    for parts in (plain, full):
        for number, layer in parts.cache.layers.items():
            layer.copy_(torch.randn(layer.shape, generator=torch.Generator().manual_seed(number)))
    wanted = logits_of(plain, PassInputs.of(chunks, BLOCK))
    found = logits_of(full, PassInputs.of(padded(chunks, 8), BLOCK, longest=64))
    torch.testing.assert_close(found[:3], wanted, rtol=1e-4, atol=1e-4)
    for number, layer in plain.cache.layers.items():
        torch.testing.assert_close(full.cache.layers[number], layer, rtol=1e-4, atol=1e-4)


def test_a_recorded_pass_takes_over_the_numbers_of_any_pass_of_its_size():
    recorded = PassInputs.idle(4, BLOCK, longest=64)
    fresh = PassInputs.of(padded(decoding([5, 17]), 4), BLOCK, longest=64)
    recorded.copy_(fresh)
    for name in ("token_ids", "positions", "slots", "sampled", "query_starts", "key_starts", "ends", "block_table"):
        assert torch.equal(getattr(recorded, name), getattr(fresh, name)), name
    assert recorded.sampled.tolist() == [0, 1, 2, 3]
    assert recorded.ends.tolist() == [5, 17, 5, 5]
    assert recorded.slots.tolist() == [99 * BLOCK + 4, 96 * BLOCK, 99 * BLOCK + 4, 99 * BLOCK + 4]


@pytest.mark.parametrize("max_rows", [1, 3, 8, 16, 17, 64, 256])
def test_every_number_of_rows_finds_a_graph_that_is_not_much_larger(max_rows: int):
    counts = row_counts(max_rows)
    assert counts == sorted(set(counts))
    assert counts[-1] == max_rows
    for rows in range(1, max_rows + 1):
        assert next(count for count in counts if count >= rows) < max(2 * rows, rows + 16)


def test_a_kernel_is_used_only_where_it_computes_attention():
    def without_window(*tensors: Any, window_size: tuple[int, int], **others: Any) -> torch.Tensor:
        return varlen_reference(*tensors, window_size=(-1, 0), **others)

    def aligned_to_the_first_key(*tensors: Any, seqused_k: torch.Tensor, **others: Any) -> torch.Tensor:
        query, _, _, starts, *_ = tensors
        out = varlen_reference(*tensors, seqused_k=seqused_k, **others)
        return out.roll(1, 0) if len(query) == int(starts[-1]) else out

    def writes_the_first_alone(*tensors: Any, **others: Any) -> torch.Tensor:
        out = varlen_reference(*tensors, **others)
        out[int(tensors[3][1]) :] = float("nan")
        return out

    def broken(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("Paged KV cache block size must be divisible by 512")

    assert computes_attention(varlen_reference, torch.float32, CPU)
    assert not computes_attention(without_window, torch.float32, CPU)
    assert not computes_attention(aligned_to_the_first_key, torch.float32, CPU)
    assert not computes_attention(writes_the_first_alone, torch.float32, CPU)
    assert not computes_attention(broken, torch.float32, CPU)


def test_heads_are_joined_only_where_every_chunk_is_one_token():
    windows: list[tuple[int, tuple[int, int]]] = []

    def noting(*tensors: Any, window_size: tuple[int, int], **others: Any) -> torch.Tensor:
        windows.append((tensors[5], window_size))
        return varlen_reference(*tensors, window_size=window_size, **others)

    assert computes_attention(partial(_attend_jointly, noting), torch.float32, CPU)
    assert windows == [(8, (99, 0)), (8, (-1, 0)), (1, (99, 0)), (1, (-1, -1))]


def test_a_cpu_has_no_such_kernel():
    assert find_varlen_attention([], torch.bfloat16, CPU) is None
