"""The body of Takeoff's own API: bytes in, a checked `NativeRequest` out, or an error that names the field.

The names are Takeoff's. Fields that are not named here are disregarded, and null is the same as absent.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from proxy.errors import InvalidRequestError
from proxy.guided import grammar_of_json
from proxy.json_body import decode
from proxy.sampling import INT32_MAX, Count

# Takeoff's own defaults: an answer without them is short, and the likeliest.
DEFAULT_GROUP = "primary"
DEFAULT_MAX_NEW_TOKENS = 128
DEFAULT_TOP_K = 1


class NativeBody(msgspec.Struct, kw_only=True):
    """The body of `POST /generate` and `POST /generate_stream`."""

    text: Annotated[str | list[str], Meta(description="a prompt, or a list of them")]
    consumer_group: Annotated[str, Meta(min_length=1, description="by default primary")] | None = None
    sampling_temperature: Annotated[float, Meta(ge=0, le=2, description="0 takes the likeliest token")] | None = None
    sampling_topp: Annotated[float, Meta(gt=0, le=1)] | None = None
    sampling_topk: (
        Annotated[
            int,
            Meta(ge=-1, description="0 and -1 keep all tokens; 1 where no other sampling field is set, as in Takeoff"),
        ]
        | None
    ) = None
    max_new_tokens: Annotated[Count, Meta(description="by default 128")] | None = None
    min_new_tokens: Annotated[int, Meta(ge=0)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    prompt_max_tokens: Annotated[Count, Meta(description="a longer text is cut to its last so many tokens")] | None = (
        None
    )
    json_schema: Annotated[dict[str, Any] | bool | str, Meta(description="the answer is JSON by it")] | None = None
    regex_string: Annotated[str, Meta(description="the answer matches it")] | None = None
    use_chat_template: (
        Annotated[bool, Meta(description="take each text for a user's turn of a chat, not for a raw prompt")] | None
    ) = None
    return_metadata: Annotated[bool, Meta(description="count tokens, say why the answer ended")] | None = None


_decoder = msgspec.json.Decoder(NativeBody)


class NativeRequest(msgspec.Struct, frozen=True):
    """A checked request. `is_list` says whether the answer is a list too."""

    group: str
    texts: list[str]
    is_list: bool
    max_prompt_tokens: int | None
    is_chat: bool
    with_metadata: bool
    sampling_parameters: dict[str, Any]
    grammar_field: str


def parse(body: bytes, max_prompts: int) -> NativeRequest:
    """Check a request body against the rules.

    Raises:
        InvalidRequestError: with the offending field in `param`.
    """
    asked = decode(body, _decoder)
    texts = [asked.text] if isinstance(asked.text, str) else asked.text
    if not 1 <= len(texts) <= max_prompts:
        raise InvalidRequestError(
            f"'text' holds {len(texts)} prompts, but at least 1 and at most {max_prompts} are taken.", param="text"
        )
    return NativeRequest(
        group=asked.consumer_group or DEFAULT_GROUP,
        texts=texts,
        is_list=not isinstance(asked.text, str),
        max_prompt_tokens=asked.prompt_max_tokens,
        is_chat=asked.use_chat_template is True,
        with_metadata=asked.return_metadata is True,
        sampling_parameters=_parameters(asked),
        grammar_field="regex_string" if asked.regex_string is not None else "json_schema",
    )


def _parameters(asked: NativeBody) -> dict[str, Any]:
    """The contract's `sampling_parameters`, which has names of its own."""
    given = {
        "temperature": asked.sampling_temperature,
        "top_p": asked.sampling_topp,
        "top_k": _top_k(asked),
        "max_tokens": min(asked.max_new_tokens or DEFAULT_MAX_NEW_TOKENS, INT32_MAX),
        "min_tokens": None if asked.min_new_tokens is None else min(asked.min_new_tokens, INT32_MAX),
        "repetition_penalty": asked.repetition_penalty,
        "grammar": _grammar(asked),
    }
    return {name: value for name, value in given.items() if value is not None}


def _top_k(asked: NativeBody) -> int | None:
    """Takeoff's default of 1 would make every temperature meaningless that is set without a top k."""
    if asked.sampling_topk is not None:
        return min(max(asked.sampling_topk, 0), INT32_MAX)
    is_free = asked.sampling_temperature is None and asked.sampling_topp is None
    return DEFAULT_TOP_K if is_free else None


def _grammar(asked: NativeBody) -> dict[str, Any] | None:
    if asked.regex_string is None:
        return grammar_of_json(asked.json_schema, "json_schema")
    if asked.json_schema is not None:
        raise InvalidRequestError("'json_schema' and 'regex_string' cannot be used together.", param="regex_string")
    return {"regex": asked.regex_string}
