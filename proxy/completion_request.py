"""The body of a text completion: bytes in, a checked `CompletionRequest` out, or an error that names the field."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from proxy.backend import Prompt
from proxy.errors import InvalidRequestError, require_at_most
from proxy.json_body import decode
from proxy.sampling import INT32_MAX, SamplingFields

# OpenAI's own default, which clients rely on: a completion without it is short.
DEFAULT_MAX_TOKENS = 16

TokenIds = Annotated[list[Annotated[int, Meta(ge=0, le=INT32_MAX)]], Meta(min_length=1)]


class CompletionBody(SamplingFields, kw_only=True):
    """The body of `POST /v1/completions`. Fields that are not named here are disregarded."""

    model: Annotated[str, Meta(min_length=1, description="the consumer group")]
    prompt: Annotated[
        str | list[str | int | list[int]],
        Meta(description="a text, several texts, token ids, or several lists of token ids"),
    ]
    echo: Annotated[bool, Meta(description="put the prompt before each choice")] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    best_of: Annotated[int, Meta(ge=1, description="only as many as n")] | None = None
    suffix: Annotated[str, Meta(description="not supported")] | None = None


_decoder = msgspec.json.Decoder(CompletionBody)


class CompletionRequest(msgspec.Struct, frozen=True):
    """A completion that can be sent to an engine, prompt by prompt; each makes `num_choices` choices."""

    model: str
    prompts: list[Prompt]
    sampling_parameters: dict[str, Any]
    num_choices: int
    echo: bool
    stream: bool
    include_usage: bool
    grammar_field: str


def parse(body: bytes, max_choices: int, max_prompts: int) -> CompletionRequest:
    """Check a request body against the rules.

    Raises:
        InvalidRequestError: with the offending field in `param`.
    """
    asked = decode(body, _decoder)
    asked.check(max_choices)
    num_choices = asked.n or 1
    if asked.best_of is not None and asked.best_of != num_choices:
        raise InvalidRequestError("'best_of' is only supported when it equals 'n'.", param="best_of")
    if asked.suffix:
        raise InvalidRequestError("'suffix' is not supported: the models here only continue a text.", param="suffix")
    if asked.echo and asked.logprobs is not None:
        raise InvalidRequestError("'logprobs' is not supported together with 'echo'.", param="logprobs")
    prompts = _prompts(asked.prompt)
    require_at_most(max_prompts, len(prompts), "prompts", param="prompt")
    return CompletionRequest(
        model=asked.model,
        prompts=prompts,
        sampling_parameters=asked.parameters(
            max_tokens=DEFAULT_MAX_TOKENS if asked.max_tokens is None else asked.max_tokens, logprobs=asked.logprobs
        ),
        num_choices=num_choices,
        echo=asked.echo is True,
        stream=asked.is_stream,
        include_usage=asked.wants_usage,
        grammar_field=asked.grammar_field,
    )


def _prompts(prompt: Any) -> list[Prompt]:
    """One prompt of each: a text, texts, token ids, lists of token ids; no mixture of them."""
    if isinstance(prompt, str):
        return [Prompt(text=prompt)]
    kinds = {type(part) for part in prompt}
    if kinds == {str}:
        return [Prompt(text=text) for text in prompt]
    if kinds == {int}:
        return [_of_ids(prompt)]
    if kinds == {list}:
        return [_of_ids(ids) for ids in prompt]
    raise InvalidRequestError(
        "'prompt' must be a string, a list of strings, a list of token ids or a list of such lists.", param="prompt"
    )


def _of_ids(token_ids: list[int]) -> Prompt:
    try:
        return Prompt(token_ids=msgspec.convert(token_ids, TokenIds))
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"'prompt' holds something that is no token id: {error}.", param="prompt") from None
