"""What is too long or too deep for the model is refused in words, and before it costs anything."""

import re
from typing import Any

import pytest
from llm.chat_prompt import ChatPrompt
from llm.errors import ContextLengthError, InvalidRequestError

from tests.engine.tiny_models import byte_tokenizer

LONGEST = len("<|begin|>")
TOOLS_TEMPLATE = "{% for message in messages %}{{ message.tool_calls | tojson }}{% endfor %}"


class UnwillingTokenizer:
    """Has a vocabulary, and fails the test when it is given work."""

    chat_template = None

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0, "<|begin|>": 1}

    def apply_chat_template(self, messages: list[dict[str, Any]], **_: object) -> str:
        assert len(messages) == 1, "too many messages were rendered"
        return str(messages[0]["content"])

    def __call__(self, *_: object, **__: object) -> dict[str, Any]:
        raise AssertionError("a text that cannot fit was tokenised")


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def test_a_text_that_cannot_fit_is_refused_untokenised():
    """Some megabytes kept Triton's thread busy for seconds, and everybody's new requests waited."""
    prompt = ChatPrompt(UnwillingTokenizer(), max_model_len=100)
    text = "a" * (LONGEST * 99 + 1)
    for refused in (lambda: prompt.from_text(text), lambda: prompt.from_messages([user(text)])):
        with pytest.raises(ContextLengthError, match=r"is 100 tokens.*at least 100 tokens") as refusal:
            refused()
        assert refusal.value.code == "context_length_exceeded"


def test_more_messages_than_tokens_are_refused_unrendered():
    prompt = ChatPrompt(UnwillingTokenizer(), max_model_len=100)
    with pytest.raises(ContextLengthError, match="at least 100 tokens"):
        prompt.from_messages([user("")] * 100)


def test_the_longest_text_that_could_fit_is_counted():
    prompt = ChatPrompt(byte_tokenizer(), max_model_len=100)
    assert len(prompt.from_text("<|begin|>" * 99)) == 99


def test_messages_nested_too_deeply_for_the_template_are_refused():
    """JSON's reader goes deeper than what walks through the messages afterwards: that was an internal error."""
    nested: list[Any] = []
    for _ in range(900):
        nested = [nested]
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TOOLS_TEMPLATE
    with pytest.raises(InvalidRequestError, match="too deeply") as refusal:
        ChatPrompt(tokenizer, max_model_len=256).from_messages(
            [{**user("x"), "tool_calls": [{"function": {"name": "f", "arguments": {"a": nested}}}]}]
        )
    assert refusal.value.param == "messages"


@pytest.mark.parametrize(
    "expression", ["messages[0].x.y", "raise_exception('no')", "1 / 0", "messages | sum", "'%d' % 'x'", "''.join([1])"]
)
def test_whatever_a_template_fails_of_is_said_about_the_messages(expression: str):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ " + expression + " }}"
    with pytest.raises(InvalidRequestError, match=re.escape("does not accept these messages")):
        ChatPrompt(tokenizer, max_model_len=256).from_messages([user("x")])


def test_calls_that_cannot_fit_are_refused_unrendered():
    """15 MB of them kept Triton's thread busy for four seconds."""
    prompt = ChatPrompt(UnwillingTokenizer(), max_model_len=100)
    call = {"function": {"name": "f", "arguments": "x" * (LONGEST * 101)}}
    with pytest.raises(ContextLengthError, match="at least"):
        prompt.from_messages([user("Hi"), {"role": "assistant", "content": "", "tool_calls": [call]}])
