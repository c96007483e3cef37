"""`GET /` and `GET /page/...`: the page for people, from the files in proxy/page, read once when the process starts.

They need no key, because a browser has none when it asks for them: all they hold is public. Nothing in them may run
or load but themselves, and no cache may keep them without asking whether they have changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sanic import Blueprint, HTTPResponse, Request, raw

from proxy.errors import NotFoundError

page = Blueprint("page")

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No script may turn a text into markup.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    content_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> _File:
        content = path.read_bytes()
        return cls(content, _TYPES[path.suffix], f'"{sha256(content).hexdigest()[:20]}"')


_FOLDER = Path(__file__).with_name("page")
_FILES = {file.name: _File.read(file) for file in sorted(_FOLDER.iterdir()) if file.suffix in _TYPES}
PATHS = frozenset({"/", *(f"/page/{name}" for name in _FILES)})


async def show_page(request: Request) -> HTTPResponse:
    """Answer with the page."""
    return _answer(request, _FILES["index.html"])


async def show_file(request: Request, name: str) -> HTTPResponse:
    """Answer with a file that the page asks for.

    Raises:
        NotFoundError: there is none of this name.
    """
    if (file := _FILES.get(name)) is None:
        raise NotFoundError(f"Unknown request URL: {request.method} {request.path}.")
    return _answer(request, file)


def _answer(request: Request, file: _File) -> HTTPResponse:
    headers = {**_HEADERS, "etag": file.etag}
    known = request.headers.getone("if-none-match", "")
    if known == "*" or file.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return HTTPResponse(status=304, headers=headers)
    return raw(file.content, content_type=file.content_type, headers=headers)


page.add_route(show_page, "/", methods=["GET", "HEAD"])
page.add_route(show_file, "/page/<name:str>", methods=["GET", "HEAD"])
