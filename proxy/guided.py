"""The request fields that say what an answer must look like: OpenAI's `response_format`, vLLM's guided decoding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from proxy.errors import InvalidRequestError

_Schema = dict[str, Any] | bool
_Choices = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=1024)]


class JsonSchemaFormat(msgspec.Struct):
    """A schema for the answer. Unless it is `strict`, keywords that cannot be enforced are disregarded."""

    name: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
    schema: _Schema | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    """OpenAI's: `text` is free, `json_object` any JSON object, `json_schema` JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(msgspec.Struct):
    """vLLM's extension: one of these."""

    json: _Schema | str | None = None
    regex: str | None = None
    choice: _Choices | None = None
    grammar: Annotated[str, Meta(description="in llguidance's dialect of Lark")] | None = None


class GuidedFields(msgspec.Struct, kw_only=True):
    """The fields as they come; at most one of them may ask for something."""

    response_format: ResponseFormat | None = None
    structured_outputs: Annotated[StructuredOutputs, Meta(description="vLLM's extension")] | None = None
    guided_json: Annotated[_Schema | str, Meta(description="vLLM's extension")] | None = None
    guided_regex: Annotated[str, Meta(description="vLLM's extension")] | None = None
    guided_choice: Annotated[_Choices, Meta(description="vLLM's extension")] | None = None
    guided_grammar: Annotated[str, Meta(description="vLLM's extension, in llguidance's dialect of Lark")] | None = None

    @property
    def grammar_field(self) -> str:
        """The name of the field that asks for something; errors of its grammar are this field's."""
        return next(iter(self._asked()), "response_format")

    def grammar(self) -> dict[str, Any] | None:
        """The contract's `grammar`; None: the answer is free.

        Raises:
            InvalidRequestError: more than one field asks for something, or one of them is incomplete.
        """
        asked = self._asked()
        if len(asked) > 1:
            first, second = list(asked)[:2]
            raise InvalidRequestError(f"'{first}' and '{second}' cannot be used together.", param=second)
        return next(iter(asked.values()), None)

    def _asked(self) -> dict[str, dict[str, Any]]:
        asked = {}
        for name, grammar_of in _GRAMMARS.items():
            value = getattr(self, name)
            if value is not None and (grammar := grammar_of(value)) is not None:
                asked[name] = grammar
        return asked


def _of_format(wanted: ResponseFormat) -> dict[str, Any] | None:
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"json_object": True}
    if wanted.json_schema is None:
        raise InvalidRequestError(
            "'response_format.json_schema' is missing: it holds the name and the schema.", param="response_format"
        )
    if wanted.json_schema.schema is None:
        raise InvalidRequestError("'response_format.json_schema.schema' is missing.", param="response_format")
    return {"json_schema": wanted.json_schema.schema, "is_lenient": wanted.json_schema.strict is not True}


def _of_outputs(outputs: StructuredOutputs) -> dict[str, Any] | None:
    given = [
        grammar_of_json(outputs.json, "structured_outputs"),
        _only("regex", outputs.regex),
        _only("choice", outputs.choice),
        _only("lark", outputs.grammar),
    ]
    asked = [grammar for grammar in given if grammar is not None]
    if len(asked) > 1:
        raise InvalidRequestError("'structured_outputs' may hold only one of its fields.", param="structured_outputs")
    return asked[0] if asked else None


def grammar_of_json(schema: _Schema | str | None, param: str) -> dict[str, Any] | None:
    """The contract's `grammar` of a schema, which may be written as a text; `param` is the field it came in.

    Raises:
        InvalidRequestError: the text is no JSON schema.
    """
    if not isinstance(schema, str):
        return _only("json_schema", schema)
    try:
        return {"json_schema": msgspec.json.decode(schema, type=_Schema)}
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidRequestError(f"'{param}' holds no JSON schema: {error}.", param=param) from None


def _only(kind: str, value: Any) -> dict[str, Any] | None:
    return None if value is None else {kind: value}


# By field, what its value asks for.
_GRAMMARS: dict[str, Callable[[Any], dict[str, Any] | None]] = {
    "response_format": _of_format,
    "structured_outputs": _of_outputs,
    "guided_json": partial(grammar_of_json, param="guided_json"),
    "guided_regex": partial(_only, "regex"),
    "guided_choice": partial(_only, "choice"),
    "guided_grammar": partial(_only, "lark"),
}
