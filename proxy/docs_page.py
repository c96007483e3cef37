"""An OpenAPI description as a page for people, without scripts and without requests of its own."""

from __future__ import annotations

from html import escape
from typing import Any

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title} API</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: auto; max-width: 52rem; padding: 1rem }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ border-bottom: 1px solid #8886; padding: .2rem .6rem .2rem 0; text-align: left; vertical-align: top }}
</style>
</head>
<body>
<h1>{title} API {version}</h1>
<p>The same for programs: <a href="openapi.json">openapi.json</a>.
Fields marked * are required; null is the same as absent.</p>
{sections}
</body>
</html>
"""


def render(description: dict[str, Any]) -> str:
    """Write the page."""
    schemas = description["components"]["schemas"]
    sections = [
        _section(method, path, operation, schemas)
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    ]
    info = description["info"]
    return _PAGE.format(title=escape(info["title"]), version=escape(info["version"]), sections="".join(sections))


def _section(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    body = operation.get("requestBody")
    fields = "" if body is None else _fields(body["content"]["application/json"]["schema"], schemas)
    answers = "".join(
        f"<li><b>{status}</b> {escape(answer['description'])}</li>" for status, answer in operation["responses"].items()
    )
    head = f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}.</p>"
    return f"<section>{head}{fields}<ul>{answers}</ul></section>"


def _fields(reference: dict[str, Any], schemas: dict[str, Any]) -> str:
    schema = schemas[_name(reference)]
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>{' *' if name in schema.get('required', ()) else ''}</td>"
        f"<td>{escape(_kind(field))}</td><td>{escape(_remark(field))}</td></tr>"
        for name, field in schema["properties"].items()
    )
    return f"<table><tr><th>field</th><th>type</th><th></th></tr>{rows}</table>"


def _name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _kind(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(kind for part in field["anyOf"] if (kind := _kind(part)) != "null")
    if "$ref" in field:
        return _name(field)
    kind = str(field.get("type", "anything"))
    if kind == "array":
        return f"list of {_kind(field.get('items', {}))}"
    bounds = {"minimum": "from", "exclusiveMinimum": "over", "maximum": "to"}
    return " ".join([kind, *(f"{word} {field[key]}" for key, word in bounds.items() if key in field)])


def _remark(field: dict[str, Any]) -> str:
    remarks = [field.get("description"), *(part.get("description") for part in field.get("anyOf", ()))]
    return "; ".join(remark for remark in remarks if remark)
