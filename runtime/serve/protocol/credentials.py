"""API keys: authentication of clients, and the names under which the queue is shared among them."""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.serve.refusals import UnauthorizedError

_NAME_DIGITS = 12


class Credentials:
    """The keys that a server accepts, stored as digests; without keys every client is accepted."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    @property
    def wanted(self) -> bool:
        """Return whether a key is needed."""
        return bool(self._digests)

    def client(self, authorization: str, api_key: str, address: str) -> str:
        """Return the name of a client: the digest of its key, or `address` if no key is needed.

        Args:
            authorization: Header `Authorization`, or an empty string.
            api_key: Header `x-api-key`, or an empty string.
            address: The address from which the request came.

        Raises:
            UnauthorizedError: The key is missing or not known.
        """
        if not self.wanted:
            return address
        scheme, _, token = authorization.partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else api_key
        if not given:
            raise UnauthorizedError("an API key is required; send it as Authorization: Bearer KEY or x-api-key: KEY")
        digest = _digest(given)
        fitting = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(fitting):  # all keys were compared, so the time does not depend on which one fits
            raise UnauthorizedError("the API key is not known here")
        return digest.hex()[:_NAME_DIGITS]


def read_keys(file: Path) -> tuple[str, ...]:
    """Return the keys of `file`, one a line; empty lines and lines that begin with # are ignored.

    Raises:
        InputError: The file cannot be read or holds no key.
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
