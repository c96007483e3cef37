"""How one model writes what is not plain words: tool calls and thoughts. Made at load, read on any thread."""

from collections.abc import Sequence
from typing import Any

from llm import reasoning, tool_format
from llm.chat_output import ChatOutput
from llm.grammar import Grammar
from llm.reasoning import AfterReasoning, ReasoningTags
from llm.request import TokenConstraint
from llm.tool_format import HERMES, Tool, ToolChoice, ToolFormat


class Dialect:
    """What a tokenizer and its chat template tell of a model's habits.

    Args:
        tokenizer: a transformers tokenizer.
        end_token_ids: tokens that end the model's answers.

    Attributes:
        form: how it writes calls; models that were taught none are asked for Hermes' form.
        tags: how it marks its thoughts, if it thinks aloud.
    """

    def __init__(self, tokenizer: Any, end_token_ids: frozenset[int]) -> None:
        template = tokenizer.chat_template or ""
        template = template if isinstance(template, str) else "".join(template.values())
        vocabulary = tokenizer.get_vocab()
        self.form: ToolFormat = tool_format.detect(template, vocabulary) or HERMES
        self.tags: ReasoningTags | None = reasoning.detect(vocabulary, template)
        self._end_token_ids = end_token_ids
        self._special = {
            token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        }

    def marks(self, *, has_tools: bool) -> frozenset[int]:
        """Special tokens whose text is needed to take an answer apart."""
        texts = self.form.marks if has_tools else ()
        if self.tags:
            texts += (self.tags.begin, self.tags.end)
        return frozenset(self._special[text] for text in texts if text in self._special)

    def output(self, prompt_token_ids: Sequence[int], *, has_tools: bool) -> ChatOutput:
        """What takes the answer to this prompt apart; one for each choice."""
        is_reasoning = self.tags is not None and self.tags.is_opened(prompt_token_ids)
        return ChatOutput(self.tags, is_reasoning=is_reasoning, form=self.form if has_tools else None)

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice, otherwise: Grammar | None) -> Grammar:
        """The grammar of an answer that may, or must, call these tools; one that does not is held to `otherwise`."""
        return tool_format.grammar(self.form, tools, choice, self._special, otherwise)

    def constrain(self, inner: TokenConstraint, prompt_token_ids: Sequence[int]) -> TokenConstraint:
        """Let the model think, where it does, before it is held to `inner`."""
        if self.tags is None or self.tags.is_closed(prompt_token_ids):
            return inner
        is_open = self.tags.is_opened(prompt_token_ids)
        return AfterReasoning(inner, self.tags, is_open=is_open, end_token_ids=self._end_token_ids)
