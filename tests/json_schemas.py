"""Two hundred JSON schemas, from one keyword to whole documents, that answers are held to and validated against."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any] | bool


def _object(properties: dict[str, Any], *required: str, **rest: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **rest}


def _closed(properties: dict[str, Any], **rest: Any) -> dict[str, Any]:
    """As OpenAI's strict mode wants them: every property required, no others."""
    return _object(properties, *properties, additionalProperties=False, **rest)


_STRING = {"type": "string", "maxLength": 12}
_WORD = {"type": "string", "pattern": "^[a-z]{1,8}$"}
_INTEGER = {"type": "integer", "minimum": -999, "maximum": 999}
_NUMBER = {"type": "number", "minimum": 0, "maximum": 100}
_BOOLEAN = {"type": "boolean"}
_DAY = {"enum": ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]}
_MONEY = _closed({"amount": _NUMBER, "currency": {"enum": ["EUR", "USD", "JPY"]}})
_ADDRESS = _object({"street": _STRING, "city": _WORD, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}, "city")
_LEAVES = (_STRING, _WORD, _INTEGER, _NUMBER, _BOOLEAN, _DAY, {"type": "null"})


def _scalars() -> list[Schema]:
    return [
        *({"type": "string", "minLength": low, "maxLength": high} for low, high in ((0, 0), (1, 1), (2, 9), (16, 16))),
        *({"type": "string", "pattern": pattern} for pattern in _PATTERNS),
        *({"type": "string", "format": name} for name in ("date", "date-time", "uuid", "ipv4", "email")),
        *({"type": "integer", "minimum": low, "maximum": high} for low, high in _RANGES),
        *({"type": "number", "minimum": low, "maximum": high} for low, high in _RANGES),
        *({"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": high} for low, high in ((0, 2), (-7, 7))),
        *({"type": "integer", "minimum": 0, "maximum": 999, "multipleOf": of} for of in (2, 5, 10, 25)),
        *({"enum": values} for values in _ENUMS),
        *({"const": value} for value in _CONSTANTS),
        *({"type": ["null", name], "maxLength": 5} for name in ("string", "boolean")),
    ]


_PATTERNS = (
    r"^[A-Z]{3}-[0-9]{4}$",
    r"^(red|green|blue)$",
    r"^\d{3}-\d{2}-\d{4}$",
    r"^#[0-9a-f]{6}$",
    r"^v\d+\.\d+\.\d+$",
    r"^[aeiou]{2,6}$",
    r"^\+[1-9][0-9]{6,14}$",
    r"^(?:yes|no)(?:, (?:yes|no)){0,3}$",
    r"^[^\"\\]{1,10}$",
    r"^x?y{2}z*$",
)
_RANGES = ((0, 1), (1, 10), (-5, 5), (100, 999), (0, 255), (-1000000, 1000000))
_ENUMS = (
    ["a"],
    ["yes", "no", "maybe"],
    [1, 2, 3],
    [True, None, "mixed", 4.5],
    ["with space", 'with "quotes"', "with \\ backslash", "with\nnewline"],
    ["Grüße", "日本語", "naïve", "🙂"],
    [{"deep": [1]}, ["list"]],
    [f"option-{number}" for number in range(100)],
)
_CONSTANTS: tuple[Any, ...] = ("fixed", 42, -0.5, None, True, ["a", 1], {"k": {"v": []}}, "")


def _arrays() -> list[Schema]:
    bounded = [
        {"type": "array", "items": leaf, "minItems": low, "maxItems": high}
        for leaf in _LEAVES
        for low, high in ((0, 2), (3, 3))
    ]
    tuples = [
        {"type": "array", "prefixItems": list(_LEAVES[:width]), "items": False, "minItems": width}
        for width in range(1, 6)
    ]
    return [
        *bounded,
        *tuples,
        *(
            {"type": "array", "prefixItems": [leaf, {"type": "array", "items": leaf, "maxItems": 2}], "minItems": 2}
            for leaf in _LEAVES
        ),
        {"type": "array", "items": {"type": "array", "items": _INTEGER, "maxItems": 3}, "maxItems": 3},
        {"type": "array", "items": _MONEY, "minItems": 1, "maxItems": 2},
        {"type": "array", "prefixItems": [_DAY], "items": _BOOLEAN, "minItems": 2, "maxItems": 4},
        {"type": "array", "items": {"anyOf": [_INTEGER, _WORD]}, "minItems": 1, "maxItems": 4},
    ]


def _nested(depth: int) -> dict[str, Any]:
    return _closed({"level": {"const": depth}, "below": _nested(depth - 1) if depth else {"type": "null"}})


def _objects() -> list[Schema]:
    names = ("plain", "with space", "ünïcode", "日本", "$dollar", 'quo"te', "back\\slash", "a.b", "dash-ed", "1")
    return [
        *(_closed({name: leaf}) for name, leaf in zip(names, _LEAVES * 2, strict=False)),
        *(_closed({f"p{at}": leaf for at, leaf in enumerate(_LEAVES[:width])}) for width in range(1, 8)),
        *(
            _object({f"p{at}": leaf for at, leaf in enumerate(_LEAVES)}, *(f"p{at}" for at in chosen))
            for chosen in ((), (0,), (6,), (1, 3, 5))
        ),
        *(_closed({"items": {"type": "array", "items": leaf, "maxItems": 3}, "count": _INTEGER}) for leaf in _LEAVES),
        *(_closed({"value": {"anyOf": [leaf, {"type": "null"}]}}) for leaf in _LEAVES),
        *({"type": "array", "items": _closed({"x": leaf}), "maxItems": 2} for leaf in _LEAVES),
        *(
            {"type": "object", "patternProperties": {"^k[0-9]$": leaf}, "additionalProperties": False}
            for leaf in _LEAVES
        ),
        *(_closed(dict.fromkeys(("Mon", "Tue", "Wed"), leaf)) for leaf in _LEAVES),
        *(_object({"a": _WORD}, "a", additionalProperties=leaf, maxProperties=3) for leaf in _LEAVES[:4]),
        _closed({"outer": _closed({"middle": _closed({"inner": _BOOLEAN})})}),
        *(_nested(depth) for depth in range(2, 8)),
        _closed({"address": _ADDRESS, "money": _MONEY}),
        {"type": "object", "patternProperties": {"^x_[a-z]{1,3}$": _INTEGER}, "additionalProperties": False},
        {"type": "object", "additionalProperties": _BOOLEAN, "minProperties": 1, "maxProperties": 2},
        {"type": "object", "additionalProperties": False},
        _closed({f"field_{number:02}": _BOOLEAN for number in range(30)}),
    ]


def _combined() -> list[Schema]:
    pairs = [(a, b) for at, a in enumerate(_LEAVES) for b in _LEAVES[at + 1 :]]
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}}}
    return [
        *({"anyOf": [a, b]} for a, b in pairs),
        {"allOf": [_object({"a": _WORD}, "a"), _object({"b": _INTEGER}, "b")]},
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
        {
            "oneOf": [
                _closed({"kind": {"const": "circle"}, "radius": _NUMBER}),
                _closed({"kind": {"const": "square"}, "side": _NUMBER}),
            ]
        },
        {"anyOf": [_MONEY, {"type": "null"}]},
        {**tree, "required": ["children"], "additionalProperties": False},
        {"$ref": "#/$defs/pair", "$defs": {"pair": {"type": "array", "items": _DAY, "minItems": 2, "maxItems": 2}}},
        _closed({"from": {"$ref": "#/$defs/m"}, "to": {"$ref": "#/$defs/m"}}, **{"$defs": {"m": _MONEY}}),
        {
            "$defs": {
                "node": _closed({"value": _INTEGER, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}})
            },
            "$ref": "#/$defs/node",
        },
        {"type": ["integer", "boolean", "null"]},
        True,
    ]


def _documents() -> list[Schema]:
    person = _closed(
        {
            "name": _STRING,
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "email": {"type": "string", "format": "email"},
        }
    )
    return [
        person,
        _closed(
            {
                "name": _STRING,
                "date": {"type": "string", "format": "date"},
                "participants": {"type": "array", "items": _WORD, "maxItems": 4},
            },
            title="CalendarEvent",
        ),
        _closed(
            {
                "steps": {
                    "type": "array",
                    "maxItems": 3,
                    "items": _closed({"explanation": _STRING, "output": _STRING}),
                },
                "final_answer": _STRING,
            },
            title="MathReasoning",
        ),
        _closed(
            {
                "invoice": {"type": "string", "pattern": "^INV-[0-9]{4}$"},
                "paid": _BOOLEAN,
                "total": _MONEY,
                "lines": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 3,
                    "items": _closed({"sku": _WORD, "count": {"type": "integer", "minimum": 1, "maximum": 99}}),
                },
            }
        ),
        _closed(
            {
                "sentiment": {"enum": ["positive", "neutral", "negative"]},
                "score": {"type": "number", "minimum": 0, "maximum": 1},
            }
        ),
        _closed(
            {
                "is_violating": _BOOLEAN,
                "category": {"anyOf": [{"enum": ["violence", "fraud"]}, {"type": "null"}]},
                "why": {"anyOf": [_STRING, {"type": "null"}]},
            }
        ),
        _closed(
            {
                "location": _WORD,
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
            }
        ),
        _object(
            {
                "query": _STRING,
                "filters": _object(
                    {
                        "before": {"type": "string", "format": "date"},
                        "tags": {"type": "array", "items": _WORD, "maxItems": 3},
                    }
                ),
                "limit": {"type": "integer", "minimum": 1, "maximum": 100},
            },
            "query",
        ),
        _closed({"type": {"const": "div"}, "children": {"type": "array", "maxItems": 2, "items": {"$ref": "#"}}}),
        _object(
            {
                "resume": _object(
                    {"skills": {"type": "array", "items": _WORD, "maxItems": 5}, "years": _INTEGER}, "skills"
                ),
                "references": {"type": "array", "items": person, "maxItems": 1},
            },
            "resume",
        ),
        _closed(
            {
                "latitude": {"type": "number", "minimum": -90, "maximum": 90},
                "longitude": {"type": "number", "minimum": -180, "maximum": 180},
            }
        ),
        _closed(
            {
                "board": {
                    "type": "array",
                    "minItems": 3,
                    "maxItems": 3,
                    "items": {"type": "array", "minItems": 3, "maxItems": 3, "items": {"enum": ["X", "O", ""]}},
                }
            }
        ),
    ]


SCHEMAS: tuple[Schema, ...] = tuple(
    schema for family in (_scalars, _arrays, _objects, _combined, _documents) for schema in family()
)
