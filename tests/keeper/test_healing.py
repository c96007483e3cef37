import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from keeper.group_locks import GroupLocks
from keeper.healing import Healing
from keeper.load_error import LoadError
from keeper.triton import ModelState, Pulse, SilenceError, TritonAwayError, TritonError, UnhealthyError
from tests.keeper.fakes import HEALTHY, FakeProcesses, FakeTriton

HEALED = ["kill primary", "unload primary", "load primary"]


@asynccontextmanager
async def healing(
    triton: FakeTriton, locks: GroupLocks | None = None, wanted: tuple[str, ...] = ()
) -> AsyncIterator[Healing]:
    """Rounds every 5 ms; a pass or a silence may last 50 ms."""
    healing = Healing(
        triton, FakeProcesses(triton), locks or GroupLocks(), 0.05, interval=0.005, notice=0.0, wanted=wanted
    )
    task = asyncio.create_task(healing.run())
    yield healing
    task.cancel()
    await asyncio.wait([task])


async def run_first_start(triton: FakeTriton) -> None:
    """Until it fails, which must be soon."""
    first = Healing(
        triton, FakeProcesses(triton), GroupLocks(), 0.05, interval=0.005, wanted=["primary"], is_first_start=True
    )
    await asyncio.wait_for(first.run(), 5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.005)


async def test_a_model_that_is_well_is_left_alone():
    triton = FakeTriton()
    async with healing(triton):
        await asyncio.sleep(0.1)
    assert triton.calls == []


async def test_what_is_wanted_is_loaded_when_triton_has_never_loaded_it_and_the_rest_is_left_alone():
    triton = FakeTriton()
    triton.models = [ModelState("being-added", ""), ModelState("primary", "")]
    async with healing(triton, wanted=("primary",)):
        await until(lambda: triton.models == [ModelState("primary", "READY")])
        await asyncio.sleep(0.05)
        triton.models = [ModelState("primary", "")]  # Triton was started again
        await until(lambda: len(triton.calls) > 1)
    assert triton.calls == ["load primary"] * 2


async def test_a_load_that_fails_ends_the_first_start_with_the_models_sentence():
    triton = FakeTriton()
    triton.models = [ModelState("primary", "")]
    triton.load_failures = [TritonAwayError("it starts"), TritonError("Internal: ModelLoadError: it is gated\n\nAt: x")]
    triton.stays_unloaded = True
    with pytest.raises(LoadError, match=r"^primary did not load: it is gated$"):
        await run_first_start(triton)
    assert triton.calls == ["load primary"] * 2


async def test_a_load_that_fails_is_tried_again_once_something_has_served():
    triton = FakeTriton()
    triton.models = [ModelState("primary", "")]
    triton.load_failures = [TritonError("no memory")]
    async with healing(triton, wanted=("primary",)):
        await until(lambda: triton.models == [ModelState("primary", "READY")])
    assert triton.calls == ["load primary", *HEALED]


@pytest.mark.parametrize(
    "beat",
    [
        UnhealthyError("Stub process 'primary_0_0' is not healthy."),
        Pulse(is_serving=False, pass_seconds=0.0),
        Pulse(is_serving=True, pass_seconds=0.06),
    ],
)
async def test_a_dead_process_a_dead_engine_and_a_hung_pass_are_replaced_once(beat):
    triton = FakeTriton()
    triton.beat = lambda _model: beat
    async with healing(triton):
        await until(lambda: "load primary" in triton.calls)
        await asyncio.sleep(0.05)
    assert triton.calls == HEALED


async def test_silence_counts_only_after_the_bound():
    triton = FakeTriton()
    asked: list[float] = []

    def silence(_model: str) -> Exception:
        asked.append(asyncio.get_running_loop().time())
        return SilenceError("Deadline Exceeded")

    triton.beat = silence
    async with healing(triton):
        await until(lambda: triton.calls == HEALED)
    assert asked[-1] - asked[0] >= 0.05


async def test_an_unhealthy_process_that_is_there_has_as_much_time():
    triton = FakeTriton()
    triton.beat = lambda _model: UnhealthyError("not healthy")
    triton.is_running = True
    began = asyncio.get_running_loop().time()
    async with healing(triton):
        await until(lambda: triton.calls == HEALED)
    assert asyncio.get_running_loop().time() - began > 0.05


async def test_silences_with_an_answer_between_them_do_not_add_up():
    triton = FakeTriton()
    beats = iter(range(10**6))
    triton.beat = lambda _model: HEALTHY if next(beats) % 3 == 0 else SilenceError("Deadline Exceeded")
    async with healing(triton):
        await asyncio.sleep(0.2)
    assert triton.calls == []


async def test_a_load_that_fails_is_tried_again_after_a_pause():
    triton = FakeTriton()
    triton.beat = lambda _model: UnhealthyError("dead")
    triton.load_failures = [TritonError("out of memory")]
    async with healing(triton):
        await until(lambda: triton.calls == HEALED)
        loop = asyncio.get_running_loop()
        failed = loop.time()
        await until(lambda: triton.calls == 2 * HEALED)
        assert loop.time() - failed > 0.9


async def test_a_group_that_never_served_or_was_unloaded_is_not_loaded():
    triton = FakeTriton()
    triton.models = [ModelState("primary", "UNAVAILABLE", "bad settings")]
    async with healing(triton):
        await asyncio.sleep(0.05)
        triton.models = [ModelState("primary", "READY")]
        await asyncio.sleep(0.05)
        triton.models = [ModelState("primary", "UNAVAILABLE", "unloaded")]
        await asyncio.sleep(0.05)
    assert triton.calls == []


async def test_nothing_is_healed_while_somebody_else_holds_the_groups_lock():
    triton, locks = FakeTriton(), GroupLocks()
    triton.beat = lambda _model: UnhealthyError("dead")
    async with healing(triton, locks):
        async with locks.of("primary"):
            await asyncio.sleep(0.05)
            assert triton.calls == []
        await until(lambda: triton.calls == HEALED)


async def test_a_triton_that_is_away_is_waited_for():
    triton = FakeTriton()
    triton.index_failure = TritonAwayError("connection refused")
    triton.beat = lambda _model: UnhealthyError("dead")
    async with healing(triton):
        await asyncio.sleep(0.05)
        triton.index_failure = None
        await until(lambda: triton.calls == HEALED)
