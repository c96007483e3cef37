"""Bundles: what several streams say in a pass goes out as one response, and each answer stays what it is alone."""

import pytest
from channel import Address
from event import Event
from llm.engine import Engine
from llm.request import GenerationRequest, SamplingParams
from responder import Responder

from tests.engine.fakes import ByteTokenizer
from tests.model_repository.fakes import RecordingWriter, ask, start, wait_until


def bundled(responder: Responder, prompt: str, recipient: int, **sampling: object) -> RecordingWriter:
    return ask(responder, prompt, is_stream=True, address=Address("ours", recipient), **sampling)


def opened(responder: Responder, name: str = "ours") -> RecordingWriter:
    writer = RecordingWriter()
    responder.open_bundle(name, writer)
    return writer


def sent(bundle: RecordingWriter, recipient: int) -> list[Event]:
    return [event for events in bundle.responses for event in events if event.body["recipient"] == recipient]


def test_streams_share_responses_and_the_last_word_comes_by_each_ones_own_way(engine: Engine, responder: Responder):
    bundle = opened(responder)
    writers = {number: bundled(responder, "A", number, max_tokens=40) for number in range(1, 9)}
    for num_passes in range(1, 40):
        engine.step()
        engine.on_output()  # as the next pass does, where a device computes by itself
        wait_until(lambda: all(len(sent(bundle, number)) == num_passes for number in writers))  # noqa: B023
    engine.step()
    for number, writer in writers.items():
        (last,) = writer.wait_finished()
        assert last.body["num_bundled"] == 39
        pieces = [*sent(bundle, number), last]
        assert "".join(event.text for event in pieces) == bytes(range(66, 106)).decode()
        assert sum(event.body["num_tokens"] for event in pieces) == 40
        assert last.body["usage"]["completion_tokens"] == 40
        assert all(event.body["finish_reason"] is None for event in pieces[:-1])
    assert bundle.num_acknowledged == 1
    # One for each pass, if Python does not change threads in the middle of one; without bundles eight.
    assert len(bundle.responses) < 3 * 40


def test_a_whole_answer_and_one_whose_bundle_nobody_opened_have_their_own_responses(
    engine: Engine, responder: Responder
):
    other = opened(responder, "other")
    start(engine)
    whole = ask(responder, "A", is_stream=False, address=Address("ours", 1), max_tokens=20)
    alone = bundled(responder, "A", 2, max_tokens=20)
    for writer in (whole, alone):
        events = writer.wait_finished()
        assert "".join(event.text for event in events) == "BCDEFGHIJKLMNOPQRSTU"
        assert "num_bundled" not in events[-1].body
    assert other.responses == []


def test_an_answer_that_has_begun_does_not_change_its_way(engine: Engine, responder: Responder):
    start(engine)
    writer = bundled(responder, "\x01", 1, max_tokens=9000, ignore_eos=True)
    assert writer.wait(lambda w: w.responses)
    bundle = opened(responder)
    later = bundled(responder, "A", 2, max_tokens=30)
    later.wait_finished()
    events = writer.wait_finished()
    assert sum(event.body["num_tokens"] for event in events) == 9000
    assert sent(bundle, 1) == []


@pytest.mark.parametrize("breaks", [True, False])
def test_the_answers_of_a_bundle_end_with_it_and_no_others(engine: Engine, responder: Responder, breaks: bool):
    bundle = opened(responder)
    start(engine)
    answers = [bundled(responder, "\x01", number, stop=("never",), ignore_eos=True) for number in (1, 2)]
    assert bundle.wait(lambda w: {1, 2} <= {event.body["recipient"] for events in w.responses for event in events})
    alone = RecordingWriter()
    request = GenerationRequest((65,), SamplingParams(max_tokens=3000, ignore_eos=True))
    responder.generate(request, alone, is_stream=True)
    if breaks:
        bundle.breaks = True
    else:
        bundle.client_left = True
    for writer in answers:
        assert writer.wait_finished() == []
    assert sum(event.body["num_tokens"] for event in alone.wait_finished()) == 3000
    wait_until(lambda: engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks)
    if not breaks:
        assert bundle.is_finished
    again = bundled(responder, "A", 3, max_tokens=20)
    assert "".join(event.text for event in again.wait_finished()) == "BCDEFGHIJKLMNOPQRSTU"


def test_a_bundle_without_answers_ends_when_its_client_leaves(responder: Responder):
    bundle = opened(responder)
    bundle.client_left = True
    assert bundle.wait_finished() == []


def test_a_failure_says_how_much_came_before_it(engine: Engine, responder: Responder):
    bundle = opened(responder)
    start(engine)
    writer = bundled(responder, "\x01", 1, stop=("never",), ignore_eos=True)
    assert bundle.wait(lambda w: w.responses)
    engine.stop()
    last = writer.wait_finished()[-1]
    assert last.body["error"]["kind"] == "unavailable"
    wait_until(lambda: len(sent(bundle, 1)) == last.body["num_bundled"])


def test_a_name_that_is_taken_is_refused(responder: Responder):
    first, second = opened(responder), opened(responder)
    (event,) = second.wait_finished()
    assert event.body["error"]["param"] == "bundle"
    assert not first.is_finished


def test_stopping_ends_what_is_open(engine: Engine):
    responder = Responder(engine, ByteTokenizer(), lambda token_id: bytes([token_id % 256]))
    responder.start()
    bundle = opened(responder)
    responder.stop()
    assert bundle.is_finished
