"""API keys: who may ask, and by what name turns are counted."""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.serve.refusals import UnauthorizedError

_NAME_DIGITS = 12


class Credentials:
    """The keys that a server takes, kept as digests; without keys everybody may ask."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    @property
    def wanted(self) -> bool:
        """Return whether a key is needed."""
        return bool(self._digests)

    def client(self, authorization: str, api_key: str, address: str) -> str:
        """Return the name of the client that sends these headers from `address`.

        Raises:
            UnauthorizedError: no key, or one that is not among those taken.
        """
        if not self.wanted:
            return address
        scheme, _, token = authorization.partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else api_key
        if not given:
            raise UnauthorizedError("an API key is required; send it as Authorization: Bearer KEY or x-api-key: KEY")
        digest = _digest(given)
        fitting = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(fitting):  # all were looked at: time tells nothing of which
            raise UnauthorizedError("the API key is not known here")
        return digest.hex()[:_NAME_DIGITS]


def read_keys(file: Path) -> tuple[str, ...]:
    """Return the keys of `file`, one a line; empty lines and those that begin with # are left out.

    Raises:
        InputError: the file can't be read or holds no key.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); give a text file with one key a line") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InputError(f"{file}: holds no key; write one a line")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
