"""The engine on a model that counts: everybody is answered exactly once, and no cache block is lost."""

import random
import time
from collections.abc import Sequence as Rows
from threading import Event
from typing import Any

import pytest
from llm.engine import Pulse
from llm.errors import ContextLengthError, InvalidRequestError, OverloadedError, UnavailableError
from llm.sampler import Draw
from llm.scheduler import Chunk

from tests.engine.fakes import END, DeviceFaultError, counting_engine, running, submit


def run_to_end(engine: Any, sinks: list[Any], max_steps: int = 5000) -> None:
    for _ in range(max_steps):
        if all(sink.ended.is_set() for sink in sinks):
            return
        engine.step()
    raise AssertionError("some request never ended")


def test_an_answer_goes_on_from_its_prompt_up_to_max_tokens():
    engine, _ = counting_engine()
    _, sink = submit(engine, [10, 11], max_tokens=3)
    run_to_end(engine, [sink])
    assert sink.token_ids == {0: [12, 13, 14]}
    assert sink.reasons == {0: "length"}


def test_the_end_token_stops_an_answer():
    engine, _ = counting_engine()
    _, sink = submit(engine, [END - 3], max_tokens=10)
    run_to_end(engine, [sink])
    assert sink.token_ids == {0: [END - 2, END - 1, END]}
    assert sink.reasons == {0: "stop"}


def test_max_tokens_beyond_the_context_is_clamped():
    engine, _ = counting_engine(max_model_len=8)
    _, sink = submit(engine, [1] * 6, max_tokens=100)
    run_to_end(engine, [sink])
    assert sink.token_ids == {0: [2, 3]}
    assert sink.reasons == {0: "length"}


def test_without_max_tokens_the_answer_fills_the_context():
    engine, _ = counting_engine(max_model_len=8)
    _, sink = submit(engine, [1])
    run_to_end(engine, [sink])
    assert len(sink.token_ids[0]) == 7


def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers():
    engine, _ = counting_engine(max_model_len=8)
    with pytest.raises(ContextLengthError, match=r"8 tokens.*9 tokens") as refusal:
        submit(engine, [1] * 9)
    assert refusal.value.code == "context_length_exceeded"
    with pytest.raises(ContextLengthError):
        submit(engine, [1] * 8)


def test_requests_share_a_pass_and_join_between_passes():
    engine, runner = counting_engine()
    _, first = submit(engine, [1], max_tokens=6)
    engine.step()
    engine.step()
    _, second = submit(engine, [1], max_tokens=2)
    run_to_end(engine, [first, second])
    assert [len(chunks) for chunks in runner.passes] == [1, 1, 2, 2, 1, 1]


def test_choices_are_indexed_and_counted():
    engine, _ = counting_engine()
    _, sink = submit(engine, [5], max_tokens=2, n=3)
    run_to_end(engine, [sink])
    assert sink.token_ids == {0: [6, 7], 1: [6, 7], 2: [6, 7]}
    assert sink.num_ends == 1


def test_a_long_prompt_is_computed_in_chunks_and_does_not_hold_up_running_streams():
    engine, runner = counting_engine(max_batch_tokens=8, max_model_len=100)
    _, running = submit(engine, [1], max_tokens=20)
    engine.step()
    _, long = submit(engine, [1] * 50, max_tokens=1)
    for _ in range(6):
        before = len(running.token_ids[0])
        engine.step()
        assert len(running.token_ids[0]) == before + 1
    run_to_end(engine, [running, long])
    assert max(sum(chunk.num_tokens for chunk in chunks) for chunks in runner.passes) == 8


def test_a_short_question_does_not_wait_for_long_prompts_that_came_before():
    """The oldest prompt took the whole budget of every pass: a greeting waited over a minute behind 7,000 tokens."""
    engine, runner = counting_engine(max_batch_tokens=32, max_model_len=2000, num_blocks=4000)
    long = [submit(engine, [base] * 1000, max_tokens=1)[1] for base in range(100, 105)]
    engine.step()
    _, short = submit(engine, [1] * 5, max_tokens=1)
    engine.step()
    assert short.ended.is_set()
    run_to_end(engine, long)
    assert max(sum(chunk.num_tokens for chunk in chunks) for chunks in runner.passes) == 32


def test_many_short_questions_do_not_hold_up_a_long_prompt():
    engine, _ = counting_engine(
        max_batch_tokens=32, max_model_len=2000, num_blocks=4000, max_batch_size=16, max_queue_size=1000
    )
    _, long = submit(engine, [100] * 320, max_tokens=1)
    for number in range(25):  # 20 halves of a pass, and some for tokens that the short ones' ends took first
        for each in range(8):
            submit(engine, [200 + number, each] * 4, max_tokens=1)
        engine.step()
    assert long.ended.is_set()


def test_a_cancelled_request_gives_its_blocks_back_at_the_next_step():
    engine, _ = counting_engine()
    submission, sink = submit(engine, [1] * 20)
    engine.step()
    assert engine.scheduler.pool.num_free < engine.scheduler.pool.num_blocks
    engine.cancel(submission)
    engine.step()
    assert sink.was_cancelled
    assert sink.num_ends == 1
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


def test_cancelling_a_waiting_or_an_ended_request_is_harmless():
    engine, _ = counting_engine(max_batch_size=1)
    _, first = submit(engine, [1], max_tokens=3)
    waiting, second = submit(engine, [1], max_tokens=3)
    engine.cancel(waiting)
    engine.cancel(waiting)
    run_to_end(engine, [first, second])
    engine.cancel(waiting)
    engine.step()
    assert second.was_cancelled
    assert second.num_ends == 1


def test_a_choice_finished_by_the_caller_leaves_the_others_running():
    engine, _ = counting_engine()
    submission, sink = submit(engine, [1], max_tokens=5, n=2)
    engine.step()
    engine.finish_choice(submission, 0)
    engine.finish_choice(submission, 0)
    for _ in range(10):
        engine.step()
    assert sink.token_ids == {0: [2], 1: [2, 3, 4, 5, 6]}
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


def test_finishing_a_choice_that_ended_by_itself_does_not_end_its_sibling():
    """The engine counted a choice twice when its stop string was found just as it reached its limit."""
    engine, _ = counting_engine()
    submission, sink = submit(engine, [END - 2], max_tokens=3, n=2)
    engine.step()
    engine.step()
    assert sink.reasons == {0: "stop", 1: "stop"}
    submission, sink = submit(engine, [1], max_tokens=2, n=2)
    engine.step()
    engine.finish_choice(submission, 1)
    engine.step()
    engine.finish_choice(submission, 0)
    engine.step()
    assert sink.reasons == {0: "length"}
    assert not engine.scheduler.running


def test_the_queue_is_bounded():
    engine, _ = counting_engine(max_queue_size=2)
    submit(engine, [1])
    submit(engine, [1])
    with pytest.raises(OverloadedError, match="2 requests are waiting") as refusal:
        submit(engine, [1])
    assert refusal.value.code == "server_overloaded"


def test_the_queue_counts_choices_and_not_cancellations():
    """A request counted once however many choices it had, and each cancellation counted as one more."""
    engine, _ = counting_engine(max_queue_size=4)
    submission, _ = submit(engine, [1], n=3)
    with pytest.raises(OverloadedError, match="3 requests"):
        submit(engine, [1], n=2)
    engine.cancel(submission)
    submit(engine, [1])


def test_when_blocks_run_out_the_latecomer_is_computed_again_and_nobody_is_lost():
    engine, _ = counting_engine(num_blocks=8, block_size=4, max_model_len=32)
    sinks = [submit(engine, [base], max_tokens=25)[1] for base in (100, 200, 300)]
    run_to_end(engine, sinks)
    assert engine.scheduler.num_preemptions > 0
    for base, sink in zip((100, 200, 300), sinks, strict=True):
        assert sink.token_ids[0] == list(range(base + 1, base + 26))
    assert engine.scheduler.pool.num_free == 8


def test_a_prompt_seen_before_is_not_computed_again():
    engine, runner = counting_engine(block_size=4)
    prompt = list(range(100, 122))
    _, first = submit(engine, prompt, max_tokens=3)
    run_to_end(engine, [first])
    _, again = submit(engine, prompt, max_tokens=3)
    run_to_end(engine, [again])
    assert (first.num_reused, again.num_reused) == (0, 20)
    assert again.token_ids == first.token_ids
    assert [chunk.num_tokens for chunks in runner.passes for chunk in chunks] == [22, 1, 1, 2, 1, 1]


def test_the_next_turn_of_a_conversation_reuses_the_answer_too():
    engine, _ = counting_engine(block_size=4)
    _, first = submit(engine, [100] * 10, max_tokens=8)
    run_to_end(engine, [first])
    _, second = submit(engine, [100] * 10 + first.token_ids[0] + [7, 7], max_tokens=1)
    run_to_end(engine, [second])
    assert second.num_reused == 16


def test_the_last_token_of_a_known_prompt_is_computed_because_its_logits_are_needed():
    engine, _ = counting_engine(block_size=4)
    sinks = []
    for _ in range(2):
        sinks.append(submit(engine, [5] * 8, max_tokens=2)[1])
        run_to_end(engine, sinks)
    assert sinks[1].num_reused == 4
    assert sinks[1].token_ids == {0: [6, 7]}


def test_choices_and_equal_prompts_share_the_blocks_of_their_prompt():
    engine, runner = counting_engine(block_size=4, max_batch_tokens=8)
    sinks = [submit(engine, [9] * 20, max_tokens=2, n=3)[1], submit(engine, [9] * 20, max_tokens=2)[1]]
    run_to_end(engine, sinks)
    assert sum(chunk.num_tokens for chunks in runner.passes for chunk in chunks) == 20 + 3 * 4 + 4
    assert sinks[1].num_reused == 16


def test_idle_blocks_make_room_the_oldest_first():
    engine, _ = counting_engine(num_blocks=6, block_size=4, max_model_len=24)
    for base in (100, 200):
        run_to_end(engine, [submit(engine, [base] * 12, max_tokens=1)[1]])
    run_to_end(engine, [submit(engine, [300] * 12, max_tokens=1)[1]])
    old, new = submit(engine, [100] * 12, max_tokens=1)[1], submit(engine, [300] * 12, max_tokens=1)[1]
    run_to_end(engine, [old, new])
    assert old.num_reused is not None
    assert old.num_reused < 8
    assert new.num_reused == 8


@pytest.mark.parametrize("seed", range(40))
def test_random_arrivals_and_cancels_in_a_tiny_cache_end_once_and_leak_nothing(seed: int):
    random_ = random.Random(seed)
    engine, _ = counting_engine(
        num_blocks=random_.randint(4, 12), block_size=4, max_batch_size=4, max_batch_tokens=9, max_model_len=16
    )
    requests = []
    for _ in range(60):
        if random_.random() < 0.4:
            prompt = [random_.choice([1, 1, 2])] * random_.randint(1, 15)
            requests.append(submit(engine, prompt, max_tokens=random_.randint(1, 16), n=random_.choice([1, 1, 3])))
        if requests and random_.random() < 0.15:
            engine.cancel(random_.choice(requests)[0])
        engine.step()
    sinks = [sink for _, sink in requests]
    run_to_end(engine, sinks)
    engine.step()
    assert [sink.num_ends for sink in sinks] == [1] * len(sinks)
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


def test_a_running_engine_answers_and_stops_without_leaving_anybody_waiting():
    engine, _ = counting_engine(max_model_len=10**6, num_blocks=10**6)
    with running(engine):
        _, short = submit(engine, [1], max_tokens=5)
        _, endless = submit(engine, [1])
        assert short.ended.wait(5)
    assert isinstance(endless.error, UnavailableError)
    with pytest.raises(UnavailableError, match="unloaded"):
        submit(engine, [1])


class _Failing:
    """Fails with each of these errors, then computes."""

    returns_early = False

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    def forward(self, chunks: Rows[Chunk]) -> list[Any]:
        if self.errors:
            raise self.errors.pop(0)
        return [chunk.sequence for chunk in chunks if chunk.is_last]

    def is_beyond_repair(self, error: Exception) -> bool:
        return isinstance(error, DeviceFaultError)

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)


def test_a_failing_pass_fails_its_requests_by_name_and_the_engine_goes_on():
    engine, _ = counting_engine()
    engine._runner = _Failing(RuntimeError("secret detail"))
    with running(engine):
        _, unlucky = submit(engine, [1], max_tokens=2)
        assert unlucky.ended.wait(5)
        assert unlucky.error is not None
        assert unlucky.error.kind == "internal"
        assert "secret" not in unlucky.error.message
        _, next_one = submit(engine, [1], max_tokens=2)
        assert next_one.ended.wait(5)
        assert next_one.token_ids == {0: [2, 3]}


@pytest.mark.parametrize("errors", [[DeviceFaultError("CUDA error")], [MemoryError(), MemoryError(), MemoryError()]])
def test_an_engine_that_cannot_go_on_says_so_and_leaves_nobody_waiting(errors: list[Exception]):
    engine, _ = counting_engine()
    engine._runner = _Failing(*errors)
    with running(engine):
        for error in errors:
            _, unlucky = submit(engine, [1], max_tokens=2)
            assert unlucky.ended.wait(5)
            assert unlucky.error is not None
            assert ("ran out of memory" in unlucky.error.message) == isinstance(error, MemoryError)
        deadline = time.monotonic() + 5
        while engine.pulse().is_serving:
            assert time.monotonic() < deadline
        with pytest.raises(UnavailableError, match="has died"):
            submit(engine, [1])


def test_failures_with_a_pass_between_them_that_works_do_not_add_up():
    engine, _ = counting_engine()
    with running(engine):
        for _ in range(3):
            engine._runner = _Failing(MemoryError(), MemoryError())
            for is_lucky in (False, False, True):
                _, sink = submit(engine, [1], max_tokens=2)
                assert sink.ended.wait(5)
                assert (sink.error is None) == is_lucky
        assert engine.pulse().is_serving


def test_the_pulse_tells_how_long_a_pass_lasts():
    begun, may_end = Event(), Event()

    class Slow(_Failing):
        def forward(self, chunks: Rows[Chunk]) -> list[Any]:
            begun.set()
            may_end.wait(5)
            return super().forward(chunks)

    engine, _ = counting_engine()
    engine._runner = Slow()
    with running(engine):
        assert engine.pulse() == Pulse(is_serving=True, pass_seconds=0.0)
        _, sink = submit(engine, [1], max_tokens=1)
        assert begun.wait(5)
        time.sleep(0.05)
        assert engine.pulse().pass_seconds >= 0.05
        may_end.set()
        assert sink.ended.wait(5)


def test_a_dying_engine_fails_the_open_requests_and_refuses_new_ones():
    engine, _ = counting_engine()
    engine._runner = _Failing(KeyboardInterrupt())
    with running(engine) as thread:
        _, sink = submit(engine, [1])
        assert sink.ended.wait(5)
        thread.join(5)
        assert isinstance(sink.error, UnavailableError)
        with pytest.raises(UnavailableError, match="has died"):
            submit(engine, [1])


def test_more_choices_than_may_ever_wait_are_the_requests_own_fault():
    """It was told to try again later, which could never succeed."""
    engine, _ = counting_engine(max_queue_size=4)
    with pytest.raises(InvalidRequestError, match="at most 4") as refusal:
        submit(engine, [1], n=5)
    assert refusal.value.param == "n"


class _Device:
    """A runner and a sampler of a device that works by itself; notes the order in which things happen."""

    returns_early = True

    def __init__(self) -> None:
        self.happened: list[str] = []

    def forward(self, chunks: Rows[Chunk]) -> list[Any]:
        self.happened.append("launch")
        return [chunk.sequence for chunk in chunks if chunk.is_last]

    def start(self, logits: list[Any], sequences: Rows[Any]) -> Any:
        return lambda: self._finish(sequences)

    def _finish(self, sequences: Rows[Any]) -> list[Draw]:
        self.happened.append("wait")
        return [Draw(sequence.token_ids[-1] + 1) for sequence in sequences]

    def is_beyond_repair(self, error: Exception) -> bool:
        return False

    def is_out_of_memory(self, error: Exception) -> bool:
        return False


def engine_on(device: _Device, sink_of: Any) -> Any:
    """An engine that notes how many tokens there are to be read whenever it says that they may be."""
    engine, _ = counting_engine()
    engine._runner = engine._sampler = device
    engine.on_output = lambda: device.happened.append(f"read {sum(map(len, sink_of().token_ids.values()))}")
    return engine


def test_tokens_are_to_be_read_while_a_device_works_on_the_next_and_the_last_ones_at_once():
    device = _Device()
    engine = engine_on(device, lambda: sink)
    _, sink = submit(engine, [1], max_tokens=3)
    run_to_end(engine, [sink])
    passes = ["launch", "read 0", "wait", "launch", "read 1", "wait", "launch", "read 2", "wait"]
    assert device.happened == [*passes, "read 3"]


def test_where_a_pass_blocks_tokens_are_to_be_read_before_the_next():
    device = _Device()
    device.returns_early = False
    engine = engine_on(device, lambda: sink)
    _, sink = submit(engine, [1], max_tokens=2)
    run_to_end(engine, [sink])
    assert [each for each in device.happened if each != "wait"] == [
        *("launch", "read 0", "read 1"),
        *("launch", "read 1", "read 2"),
    ]


@pytest.mark.parametrize("returns_early", [True, False])
def test_how_a_request_ends_is_to_be_read_when_nothing_is_left_to_compute(returns_early: bool):
    """Nobody would look at it otherwise, and its client would wait for ever."""
    device = _Device()
    device.returns_early = returns_early
    engine, _ = counting_engine()
    engine._runner = engine._sampler = device
    seen: list[bool] = []
    engine.on_output = lambda: seen.append(sink.ended.is_set())
    submission, sink = submit(engine, [1], max_tokens=50)
    engine.step()
    engine.cancel(submission)
    engine.step()
    assert sink.was_cancelled
    assert seen[-1]
    _, sink = submit(engine, [1], max_tokens=50, timeout=0.01)
    engine.step()
    time.sleep(0.02)
    engine.step()
    assert sink.error is not None
    assert seen[-1]


@pytest.mark.parametrize("returns_early", [True, False])
def test_how_a_pass_failed_is_to_be_read_and_how_the_engine_ended(returns_early: bool):
    runner = _Failing(RuntimeError("no"))
    runner.returns_early = returns_early
    engine, _ = counting_engine()
    engine._runner = runner
    seen: list[int] = []
    engine.on_output = lambda: seen.append(sum(sink.num_ends for sink in sinks))
    failed = submit(engine, [1], max_tokens=3)[1]
    sinks = [failed]
    with running(engine):
        assert failed.ended.wait(5)
        endless = submit(engine, [1], max_tokens=10**9)[1]
        sinks.append(endless)
    assert isinstance(endless.error, UnavailableError)
    assert 1 in seen
    assert seen[-1] == 2
