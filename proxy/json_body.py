"""Strict JSON decoding of request bodies: whatever is wrong with the bytes becomes one clear 400."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeVar

import msgspec

from proxy.errors import InvalidRequestError, UnsupportedMediaTypeError

T = TypeVar("T")

_UNREADABLE = "We could not parse the JSON body of your request"
_PATH = re.compile(r"^(?P<problem>.*) - at (?:`key` in )?`\$\.(?P<path>(?P<field>\w+).*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<field>\w+)`$")


class _DuplicateKeyError(Exception):
    pass


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) == len(pairs):
        return
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise _DuplicateKeyError(key)
        seen.add(key)


def _as_text(number: str) -> str:
    return number


# msgspec keeps the last of equal keys, other parsers the first: two systems could read one body differently.
# Numbers stay text here: a long one would cost time or raise. A function of Python's, unlike `str`, gives other threads
# a chance at each of them.
_duplicates = json.JSONDecoder(object_pairs_hook=_refuse_duplicates, parse_int=_as_text, parse_float=_as_text)


def require_json(content_type: str, *, is_of_page: bool) -> None:
    """Refuse a body that says to be something else than JSON; one that says nothing may be JSON.

    But not a web page's: without a type it is sent to any server, with that of JSON only to one that lets the page in.

    Raises:
        UnsupportedMediaTypeError: for every other type, also for the one that curl sends by default.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if not media_type and not is_of_page:
        return
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaTypeError(
            f"The content type {media_type!r:.100} is not supported: send 'Content-Type: application/json'."
        )


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode `body` into the decoder's type.

    Raises:
        InvalidRequestError: with the name of the offending top-level field, if there is one, in `param`.
    """
    if not body.strip():
        raise InvalidRequestError("The request body is empty: send a JSON object.")
    if body.startswith(b"\xef\xbb\xbf"):
        raise InvalidRequestError(f"{_UNREADABLE}: it starts with a byte order mark.")
    try:
        text = body.decode()
        value = decoder.decode(text)
        _duplicates.raw_decode(text.strip())
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{_UNREADABLE}: it is not UTF-8 (byte {error.start}).") from None
    except RecursionError:
        raise InvalidRequestError(f"{_UNREADABLE}: it is nested too deeply.") from None
    except _DuplicateKeyError as error:
        key = str(error)
        raise InvalidRequestError(f"{_UNREADABLE}: the key {key!r:.100} occurs twice in one object.") from None
    except msgspec.ValidationError as error:
        _refuse(str(error))
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidRequestError(f"{_UNREADABLE}: {error}.") from None
    return value


def _refuse(message: str) -> NoReturn:
    """Turn msgspec's "<problem> - at `$.path`", which may quote the client, into an error with a `param`."""
    message = message if len(message) < 300 else f"{message[:150]}...{message[-100:]}"
    if missing := _MISSING.match(message):
        field = missing["field"]
        raise InvalidRequestError(f"Missing required parameter: '{field}'.", param=field)
    if found := _PATH.match(message):
        problem = found["problem"][0].lower() + found["problem"][1:]
        raise InvalidRequestError(f"Invalid value for '{found['path']}': {problem}.", param=found["field"])
    raise InvalidRequestError(f"Invalid request body: {message}.")
