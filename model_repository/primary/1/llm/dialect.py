"""How one model writes what is not plain words: tool calls and thoughts. Made at load, read on any thread."""

from collections.abc import Sequence
from typing import Any

from llm import reasoning, template_output, tool_format
from llm.chat_output import ChatOutput, Output
from llm.grammar import Grammar
from llm.reasoning import AfterReasoning
from llm.request import TokenConstraint
from llm.template_output import TemplateOutput
from llm.tool_format import HERMES, Tool, ToolChoice

# As much of a prompt's end as may hold the beginning of the answer.
_PROMPT_TAIL = 1024


class Dialect:
    """What a tokenizer and its chat template tell of a model's habits.

    A form of calls that we know is ours to read and to enforce. Others are read by the tokenizer's response template
    if it has one; calls that must be made, and models that were taught none, get Hermes' form.

    Args:
        tokenizer: a transformers tokenizer.
        end_token_ids: tokens that end the model's answers.
    """

    def __init__(self, tokenizer: Any, end_token_ids: frozenset[int]) -> None:
        template = tokenizer.chat_template or ""
        template = template if isinstance(template, str) else "".join(template.values())
        vocabulary = tokenizer.get_vocab()
        known_form = tool_format.detect(template, vocabulary)
        self._form = known_form or HERMES
        self._tags = reasoning.detect(vocabulary, template)
        self._template = None if known_form else template_output.load(tokenizer)
        self._tokenizer = tokenizer
        self._end_token_ids = end_token_ids
        self._special = {
            token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        }

    def is_plain(self, tools: Sequence[Tool]) -> bool:
        """Whether answers are words and nothing else."""
        return not (tools or self._tags or self._template)

    def marks(self, tools: Sequence[Tool], choice: ToolChoice) -> frozenset[int]:
        """Special tokens whose text is needed to take an answer apart."""
        if self._is_by_template(choice):
            return frozenset(self._special.values()) - self._end_token_ids
        texts = self._form.marks if tools else ()
        if self._tags:
            texts += (self._tags.begin, self._tags.end)
        return frozenset(self._special[text] for text in texts if text in self._special)

    def output(self, prompt_token_ids: Sequence[int], tools: Sequence[Tool], choice: ToolChoice) -> Output:
        """What takes the answer to this prompt apart; one for each choice."""
        if self._template is not None and self._is_by_template(choice):
            return TemplateOutput(self._template, self._tokenizer.decode(prompt_token_ids[-_PROMPT_TAIL:]), tools)
        is_reasoning = self._tags is not None and self._tags.is_opened(prompt_token_ids)
        return ChatOutput(self._tags, is_reasoning=is_reasoning, form=self._form if tools else None)

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice, otherwise: Grammar | None) -> Grammar | None:
        """The grammar of an answer that may, or must, call these tools; one that does not is held to `otherwise`."""
        if self._is_by_template(choice):
            return otherwise
        return tool_format.grammar(self._form, tools, choice, self._special, otherwise)

    def constrain(self, inner: TokenConstraint, prompt_token_ids: Sequence[int]) -> TokenConstraint:
        """Let the model think, where it does, before it is held to `inner`."""
        if self._tags is None or self._tags.is_closed(prompt_token_ids):
            return inner
        is_open = self._tags.is_opened(prompt_token_ids)
        return AfterReasoning(inner, self._tags, is_open=is_open, end_token_ids=self._end_token_ids)

    def _is_by_template(self, choice: ToolChoice) -> bool:
        return self._template is not None and choice.mode in ("auto", "none")
