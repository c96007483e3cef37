"""The responder: merged when behind, exact in text and counts, one final response each, and nobody left behind."""

from dataclasses import replace

import pytest
from event import Event
from llm.engine import Engine
from llm.errors import InvalidRequestError
from llm.request import GenerationRequest, SamplingParams
from responder import CANCEL_POLL_SECONDS, Responder

from tests.model_repository.fakes import RecordingWriter, ask, start, wait_until


@pytest.mark.parametrize("is_stream", [True, False])
def test_text_reason_and_usage_are_the_same_streamed_and_whole(engine: Engine, responder: Responder, is_stream: bool):
    start(engine)
    writer = ask(responder, "A", is_stream=is_stream, max_tokens=20)
    events = writer.wait_finished()
    assert "".join(event.text for event in events) == "BCDEFGHIJKLMNOPQRSTU"
    assert sum(event.body["num_tokens"] for event in events) == 20
    assert events[-1].body["finish_reason"] == "length"
    assert events[-1].body["usage"] == {"prompt_tokens": 1, "completion_tokens": 20, "cached_tokens": 0}
    assert all("usage" not in event.body for event in events[:-1])
    if not is_stream:
        assert len(writer.responses) == 1
        assert len(events) == 1


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_request_is_acknowledged_once_and_before_anything_else(engine: Engine, responder: Responder, is_stream: bool):
    waiting = ask(responder, "A", is_stream=is_stream, max_tokens=20)
    wait_until(lambda: waiting.num_acknowledged)
    assert waiting.responses == []
    start(engine)
    waiting.wait_finished()
    assert waiting.num_acknowledged == 1


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_stop_string_ends_a_choice_and_the_engine_drops_it(engine: Engine, responder: Responder, is_stream: bool):
    start(engine)
    writer = ask(responder, "A", is_stream=is_stream, stop=("FG",), n=2)
    events = writer.wait_finished()
    for index in (0, 1):
        mine = [event for event in events if event.body["index"] == index]
        assert "".join(event.text for event in mine) == "BCDE"
        assert mine[-1].body["finish_reason"] == "stop"
    assert events[-1].body["usage"]["completion_tokens"] == 12
    wait_until(lambda: engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks)


def test_the_end_token_counts_but_has_no_text(engine: Engine, responder: Responder):
    start(engine)
    engine.limits = replace(engine.limits, max_model_len=100, end_token_ids=frozenset({ord("D")}))
    (event,) = ask(responder, "A", is_stream=False).wait_finished()
    assert event.text == "BC"
    assert event.body["finish_reason"] == "stop"
    assert event.body["num_tokens"] == 3


def test_tokens_that_arrive_while_a_response_is_sent_go_out_merged(engine: Engine, responder: Responder):
    slow = RecordingWriter()
    slow.blocked = True
    request = GenerationRequest((65,), SamplingParams(max_tokens=50))
    responder.generate(request, slow, is_stream=True)
    start(engine)
    # The engine is not held up by a client that takes nothing.
    wait_until(lambda: not engine.scheduler.running and not engine.scheduler.waiting and not engine._inbox)
    slow.unblock()
    events = slow.wait_finished()
    assert "".join(event.text for event in events) == bytes(range(66, 116)).decode()
    assert len(slow.responses) <= 3


def test_choices_that_end_in_one_pass_share_a_response_and_usage_comes_last(engine: Engine, responder: Responder):
    start(engine)
    writer = ask(responder, "A", is_stream=False, max_tokens=3, n=4)
    events = writer.wait_finished()
    assert [event.body["index"] for event in events] == [0, 1, 2, 3]
    assert ["usage" in event.body for event in events] == [False, False, False, True]


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_is_noticed_within_a_second_and_frees_its_blocks(
    engine: Engine, responder: Responder, is_stream: bool
):
    start(engine)
    writer = ask(responder, "\x01" * 9, is_stream=is_stream, stop=("never",))
    wait_until(lambda: engine.scheduler.running)
    writer.client_left = True
    assert CANCEL_POLL_SECONDS < 1  # a busy machine takes longer, which is no fault of ours
    wait_until(lambda: engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks)
    assert writer.wait(lambda w: w.is_finished)
    assert writer.responses[-1] == []


def test_a_client_that_leaves_while_it_waits_in_the_queue_leaves_the_queue(engine: Engine, responder: Responder):
    writer = ask(responder, "A", is_stream=True)
    writer.client_left = True
    wait_until(lambda: len(engine._inbox) == 2)
    start(engine)
    assert writer.wait(lambda w: w.is_finished)
    assert not engine.scheduler.running


def test_a_broken_sender_ends_its_request_and_no_other(engine: Engine, responder: Responder):
    start(engine)
    broken = RecordingWriter()
    broken.breaks = True
    responder.generate(GenerationRequest((65,), SamplingParams()), broken, is_stream=True)
    fine = ask(responder, "A", is_stream=True, max_tokens=30)
    assert len("".join(event.text for event in fine.wait_finished())) == 30
    wait_until(lambda: engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks)


def test_a_failure_after_the_first_token_is_said_once_and_last(engine: Engine, responder: Responder):
    start(engine)
    writer = ask(responder, "A", is_stream=True, max_tokens=9000, stop=("never",))
    assert writer.wait(lambda w: w.responses)
    engine.stop()
    events = writer.wait_finished()
    assert events[-1].body["error"]["kind"] == "unavailable"
    assert all("error" not in event.body for event in events[:-1])


def test_a_whole_answer_that_fails_is_the_error_alone(engine: Engine, responder: Responder):
    start(engine)
    writer = ask(responder, "A", is_stream=False, max_tokens=9000, stop=("never",))
    wait_until(lambda: engine.scheduler.running)
    engine.stop()
    (event,) = writer.wait_finished()
    assert event.body["error"]["kind"] == "unavailable"


def test_a_reply_needs_no_engine(responder: Responder):
    writer = RecordingWriter()
    responder.reply(Event("", {"model": {}}), writer)
    assert writer.wait_finished() == [Event("", {"model": {}})]


def test_choices_without_number_are_refused_before_anything_is_made_for_them(responder: Responder):
    """A stream of text was made for each choice first: n = 1e9 took all memory on Triton's thread."""
    with pytest.raises(InvalidRequestError):
        ask(responder, "A", is_stream=True, n=10**9)


def test_a_client_that_cannot_be_asked_after_ends_its_request_and_no_other(engine: Engine, responder: Responder):
    """The responder thread died of it, and every other client waited for ever."""
    odd, normal = ask(responder, "A", is_stream=True), ask(responder, "B", is_stream=False)
    odd.cannot_be_asked = True
    wait_until(lambda: not odd.cannot_be_asked)
    start(engine)
    assert odd.wait_finished() == []
    assert normal.wait_finished()[-1].body["finish_reason"] == "length"


def test_stop_strings_count_only_after_min_tokens(engine: Engine, responder: Responder):
    start(engine)
    (event,) = ask(responder, "A", is_stream=False, max_tokens=20, min_tokens=4, stop=("C", "H")).wait_finished()
    assert event.text == "BCDEFG"
    assert event.body["finish_reason"] == "stop"


def test_a_token_of_the_request_stops_like_the_models_own(engine: Engine, responder: Responder):
    start(engine)
    (event,) = ask(responder, "A", is_stream=False, max_tokens=20, stop_token_ids=(ord("E"),)).wait_finished()
    assert (event.text, event.body["finish_reason"], event.body["num_tokens"]) == ("BCD", "stop", 4)
