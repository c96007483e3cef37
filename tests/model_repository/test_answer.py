"""A request's answer: how many of its tokens were thoughts, however they come."""

import pytest
from answer import Answer
from llm.chat_output import ChatOutput
from llm.reasoning import ReasoningTags
from llm.request import GenerationRequest, SamplingParams

from tests.engine.fakes import ByteTokenizer

TAGS = ReasoningTags("<think>", "</think>", 257, 258)


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "num_thoughts"),
    [
        ("<think>Hm.</think>Yes.", 10),  # the tag at their begin is one of them
        ("<think>\N{CLOUD}\N{CLOUD}</think>Yes.", 13),  # of three bytes each
        ("Yes.", 0),
        ("<think>Hm", 9),
    ],
)
def test_tokens_of_thoughts_are_counted_whole_and_streamed(text: str, num_thoughts: int, at_once: int):
    token_ids = list(text.encode())
    answer = Answer(
        GenerationRequest((1, 2), SamplingParams(max_tokens=100)),
        ByteTokenizer(),
        lambda token_id: bytes([token_id]),
        lambda index: None,
        [ChatOutput(TAGS, is_reasoning=False, form=None)],
    )
    events = []
    for start in range(0, len(token_ids), at_once):
        part = token_ids[start : start + at_once]
        events += answer.add(0, part, "length" if start + at_once >= len(token_ids) else None)
    assert answer.is_complete
    assert answer.usage["completion_tokens"] == len(token_ids)
    assert answer.usage.get("reasoning_tokens", 0) == num_thoughts
    assert sum(event.body["num_tokens"] for event in events) == len(token_ids)
    said = "".join(event.body.get("reasoning", "") + event.text for event in events)
    assert said == text.replace("<think>", "").replace("</think>", "")
