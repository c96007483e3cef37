"""What llguidance takes in a JSON schema without holding answers to it: narrowed where that helps, refused otherwise.

It counts in doubles, keeps no account of the keys of an object, and unrolls multiples digit by digit. Pure; any thread.
"""

import json
from collections.abc import Iterator
from typing import Any, TypeGuard

from llm.errors import InvalidRequestError

# Beyond this a double cannot tell integers apart.
MAX_INTEGER = 2**53
# llguidance spends as many automaton states, and microseconds, as the divisor has units in its last place.
MAX_MULTIPLE = 100_000

_LOWER_BOUNDS = ("minimum", "exclusiveMinimum")
_UPPER_BOUNDS = ("maximum", "exclusiveMaximum")
# Keywords that hold schemas by name, and those that hold values, which look like schemas at times.
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_VALUES = ("const", "enum", "default", "examples")


def enforceable(schema: Any, *, is_lenient: bool, param: str) -> Any:
    """A schema whose every answer is one of `schema` too, of which llguidance loses nothing that we know of.

    Raises:
        InvalidRequestError: there is none; the message says why. With `is_lenient` what cannot be enforced is left out
            instead, unless it would cost too much or leave nothing of what is asked for.
    """
    try:
        schema = json.loads(json.dumps(schema))  # a copy of our own
    except RecursionError:
        raise InvalidRequestError("The schema cannot be used: it is nested too deeply.", param=param) from None
    for node in _schemas(schema):
        try:
            _check_multiple(node)
            _check_values(node)
            _narrow_bounds(node, is_lenient=is_lenient)
            if not is_lenient:
                _check_number_of_keys(node)
        except ValueError as reason:
            raise InvalidRequestError(f"The schema cannot be used: {reason}.", param=param) from None
    return schema


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and all that it is made of."""
    pending = [schema]
    while pending:
        match pending.pop():
            case dict() as node:
                yield node
                for keyword, value in node.items():
                    if keyword in _NAMED and isinstance(value, dict):
                        pending.extend(value.values())
                    elif keyword not in _VALUES:
                        pending.append(value)
            case list() as nodes:
                pending.extend(nodes)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_multiple(node: dict[str, Any]) -> None:
    multiple = node.get("multipleOf")
    if not _is_number(multiple):
        return
    if multiple <= 0:
        raise ValueError(f"multipleOf {multiple} is not over 0")
    digits = f"{multiple:.12f}".rstrip("0").replace(".", "").lstrip("0")
    if int(digits or 1) > MAX_MULTIPLE:
        raise ValueError(f"multipleOf {multiple} has too many digits")


def _check_values(node: dict[str, Any]) -> None:
    """Constants are compared exactly, and would be written with another value."""
    pending = [node.get("const"), node.get("enum")]
    while pending:
        match pending.pop():
            case int() as number if abs(number) > MAX_INTEGER:
                raise ValueError(f"the integer {number!s:.40} is beyond {MAX_INTEGER}")
            case dict() as values:
                pending.extend(values.values())
            case list() as values:
                pending.extend(values)


def _narrow_bounds(node: dict[str, Any], *, is_lenient: bool) -> None:
    """Bounds of 64 bits, which many generators write, become those of exact integers: all answers stay valid."""
    for bounds, sign in ((_LOWER_BOUNDS, 1), (_UPPER_BOUNDS, -1)):
        for keyword in bounds:
            value = node.get(keyword)
            if not _is_number(value) or abs(value) <= MAX_INTEGER:
                continue
            if sign * value < 0:
                node[keyword] = -sign * MAX_INTEGER
            elif is_lenient:
                del node[keyword]
            else:
                raise ValueError(f"{keyword} {value!s:.40} is beyond {MAX_INTEGER}, where numbers are not exact")


def _check_number_of_keys(node: dict[str, Any]) -> None:
    """Keys that are free may be written twice, and count once."""
    least, required = node.get("minProperties"), node.get("required")
    if not isinstance(least, int) or least <= max(1, len(required) if isinstance(required, list) else 0):
        return
    if node.get("additionalProperties") is not False or node.get("patternProperties"):
        raise ValueError(f"minProperties {least} cannot be enforced among keys that are free")
