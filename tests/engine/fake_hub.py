"""As much of a model hub as `huggingface_hub` asks for, on a loopback port."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Serves the files of a folder as the repository `name`; every other name is unknown.

    Attributes:
        refusal: status and error code in place of an answer, such as (403, "GatedRepo").
        token: what a client must bring, if anything.
        cut: a file that ends early, as when the network fails.
    """

    folder: Path
    name: str = "org/tiny"
    refusal: tuple[int, str] | None = None
    token: str | None = None
    cut: str | None = None
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def log_message(self, *_: Any) -> None: ...

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(path)
            status, headers, body = respond(hub, path, self.headers.get("Authorization"))
            is_cut = hub.cut is not None and path.endswith(hub.cut) and with_body
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body[: len(body) // 2] if is_cut else body)
            if is_cut:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def respond(hub: FakeHub, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
    if hub.refusal is not None:
        return hub.refusal[0], {"X-Error-Code": hub.refusal[1]}, b"{}"
    is_known = path.startswith((f"/api/models/{hub.name}", f"/{hub.name}/"))
    if not is_known or (hub.token is not None and authorization != f"Bearer {hub.token}"):
        return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
    files = hub.files()
    match path.removeprefix("/api/models").removeprefix(f"/{hub.name}").split("/")[1:]:
        case [] | ["revision", "main" | "v1" | "0123456789abcdef0123456789abcdef01234567"]:
            info = {"id": hub.name, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            return 200, {}, json.dumps(info).encode()
        case ["revision", _]:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        case ["tree", _]:
            tree = [
                {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for name, body in files.items()
            ]
            return 200, {}, json.dumps(tree).encode()
        case ["resolve", _, name] if name in files:
            body = files[name]
            return 200, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}, body
    return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
