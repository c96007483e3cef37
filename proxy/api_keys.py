"""Who may ask: API keys from the settings and from a file that is read again when it changes.

Only digests are kept and compared, all of them in constant time, so that neither memory nor timing tells a key.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from proxy.errors import AuthenticationError

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


class KeyFileError(ValueError):
    """A file of keys that cannot be used; the message is one line."""


class ApiKeys:
    """The keys that are accepted now.

    Args:
        keys: from the settings.
        file: one key a line, with a name and a space before it if it is to have a name; `#` begins a comment.

    Raises:
        KeyFileError: the file cannot be used.
    """

    def __init__(self, keys: tuple[str, ...] = (), file: str = "") -> None:
        self._fixed = {_digest(key): _anonymous(key) for key in keys}
        self._file = Path(file) if file else None
        self._stamp: tuple[int, int] | None = None
        self._next_look = 0.0
        self._owners: Mapping[bytes, str] = self._fixed
        if self._file is not None:
            self._stamp = _stamp(self._file)
            self._owners = {**self._fixed, **_read(self._file)}
        self.is_required = bool(self._fixed) or self._file is not None

    def owner(self, authorization: str) -> str:
        """Return the name of the key in an Authorization header.

        Raises:
            AuthenticationError: there is no key in it, or not one of ours.
        """
        self._look_again()
        scheme, _, key = authorization.strip().partition(" ")
        if not key or scheme.lower() != "bearer":
            raise AuthenticationError("An API key is needed: send it as 'Authorization: Bearer KEY'.")
        offered, found = _digest(key.strip()), ""
        for digest, owner in self._owners.items():
            if hmac.compare_digest(digest, offered):
                found = owner  # and on, so that no place in the list answers sooner than another
        if not found:
            raise AuthenticationError("The API key is not one of this server's.")
        return found

    def _look_again(self) -> None:
        if self._file is None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_SECONDS
        try:
            stamp = _stamp(self._file)
            if stamp != self._stamp:
                self._stamp = stamp
                self._owners = {**self._fixed, **_read(self._file)}
                _log.info("read %d API keys from %s", len(self._owners) - len(self._fixed), self._file)
        except KeyFileError as error:
            _log.error("the API keys stay as they were: %s", error)


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise KeyFileError(f"{file} cannot be read: {error.strerror}") from None
    return status.st_mtime_ns, status.st_size


def _read(file: Path) -> dict[bytes, str]:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{file} cannot be read: {error}") from None
    owners = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if len(words) > 2:
            raise KeyFileError(f"{file}, line {number}: write a key, or a name, a space and a key")
        if words:
            owners[_digest(words[-1])] = words[0] if len(words) == 2 else _anonymous(words[0])
    if not owners:
        raise KeyFileError(f"{file} holds no key")
    return owners


def _digest(key: str) -> bytes:
    return sha256(key.encode(errors="surrogateescape")).digest()


def _anonymous(key: str) -> str:
    """A name that tells keys apart in logs without telling the key."""
    return f"key-{_digest(key).hex()[:8]}"
