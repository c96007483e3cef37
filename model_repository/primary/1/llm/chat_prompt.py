"""Messages or raw text in, prompt token ids out, by the model's own tokenizer and chat template."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from jinja2 import TemplateError

from llm import tool_prompt
from llm.errors import ContextLengthError, InvalidRequestError
from llm.tool_format import Tool

log = logging.getLogger(__name__)

# For models that were never taught a chat format (the gpt2 of the documentation, say): a transcript to be continued.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% else %}{{ message['role'].capitalize() + ': ' + message['content'] + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """How a prompt is built.

    Attributes:
        chat_template_kwargs: handed to the chat template.
        tools: OpenAI's tool objects; a template that knows none gets them as text.
        add_special_tokens: put the tokenizer's own tokens around the text; None: around raw text only.
        add_generation_prompt: end a conversation where the assistant's next turn begins.
        continue_final_message: leave the last turn open, to be continued.
    """

    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class ChatPrompt:
    """Turns what the user said into token ids.

    Args:
        tokenizer: a transformers tokenizer; without a chat template it gets `PLAIN_TEMPLATE`, with a warning.
        max_model_len: tokens that a prompt must stay below. Texts that cannot, because not even a row of the longest
            words of the vocabulary would do, are refused unread: rendering and tokenising many megabytes takes
            seconds, during which nobody else's request is taken in.
    """

    def __init__(self, tokenizer: Any, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        # Each call sets the tokenizer up anew, which fails while another thread's is under way.
        self._lock = Lock()
        self._max_model_len = max_model_len
        # Byte-level vocabularies write a byte as a character, so that this is never too short.
        self._longest_token = max(map(len, tokenizer.get_vocab()))
        self._template: str | None = None
        self._knows_tools = tool_prompt.knows_tools(str(tokenizer.chat_template))
        if not tokenizer.chat_template:
            self._template = PLAIN_TEMPLATE
            log.warning("the model has no chat template: messages are put to it as a plain transcript")

    def from_text(self, text: str, options: PromptOptions = PromptOptions()) -> tuple[int, ...]:
        """Tokens of a raw prompt, with the special tokens the model wants around it unless told otherwise.

        Raises:
            ContextLengthError: the text is longer than any that fits.
            InvalidRequestError: the text gives no tokens, or is not encodable.
        """
        return self._encode(text, param="text_input", add_special_tokens=options.add_special_tokens is not False)

    def from_messages(
        self,
        messages: Sequence[Message],
        options: PromptOptions = PromptOptions(),
    ) -> tuple[int, ...]:
        """Tokens of a conversation, up to where the assistant's next turn begins unless told otherwise.

        Raises:
            ContextLengthError: there are more messages, or more text, than fit.
            InvalidRequestError: the template refuses the messages, or the text is not encodable.
        """
        # A turn is at least a token, and its text and its calls have to be read.
        self._check_length(len(messages))
        self._check_length(sum(map(_size, messages)) // self._longest_token)
        try:
            turns, tools = tool_prompt.with_objects(messages), options.tools
            if not self._knows_tools:
                turns, tools = tool_prompt.describe(turns, tools), None
            text = self._tokenizer.apply_chat_template(
                turns,
                **{
                    **options.chat_template_kwargs,
                    "tools": tools,
                    "chat_template": self._template,
                    "add_generation_prompt": options.add_generation_prompt,
                    "continue_final_message": options.continue_final_message,
                    "tokenize": False,
                },
            )
        except RecursionError as error:  # tool calls that are just less deep than JSON's reader can go
            raise InvalidRequestError("The messages are nested too deeply.", param="messages") from error
        except (TemplateError, TypeError, AttributeError, LookupError, ValueError, ArithmeticError) as error:
            raise InvalidRequestError(
                f"The model's chat template does not accept these messages: {error}", param="messages"
            ) from error
        # The template has already written the special tokens.
        return self._encode(text, param="messages", add_special_tokens=options.add_special_tokens is True)

    def _check_length(self, least_tokens: int) -> None:
        if least_tokens >= self._max_model_len:
            raise ContextLengthError(least_tokens, self._max_model_len, is_exact=False)

    def _encode(self, text: str, *, param: str, add_special_tokens: bool) -> tuple[int, ...]:
        self._check_length(-(-len(text) // self._longest_token))
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                "The text contains half of a surrogate pair, which is no character.", param=param
            ) from error
        with self._lock:
            token_ids = self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        if not token_ids:
            raise InvalidRequestError("The prompt is empty.", param=param)
        return tuple(token_ids)


def _size(message: Message) -> int:
    """The characters of a message, those of its calls included, which templates write out as JSON."""
    calls = message.get("tool_calls")
    return len(message["content"]) + (len(json.dumps(calls, ensure_ascii=False)) if calls else 0)
