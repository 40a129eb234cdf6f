"""Cross-origin resource sharing (CORS): the headers with which browsers let pages of other origins read answers."""

import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import Response

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.serve.protocol.checks import quoted
from internvl_edge.runtime.serve.protocol.http.responses import error_response

Line = tuple[bytes, bytes]
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s?#,*]+", re.IGNORECASE)
_EXPOSED = "inference-header-content-length, retry-after"
"""Headers of answers that a page may read besides those that browsers always show."""
_METHODS = "GET, POST, OPTIONS"
_REMEMBERED_S = 600
"""Seconds for which a browser may cache a preflight's answer."""
_HEADER_NAMES = re.compile(r"[\w!#$%&'*+.^`|~, -]{1,1024}", re.ASCII)


def require_origins(origins: Sequence[str]) -> None:
    """Check that each origin has the form in which browsers send it.

    Raises:
        InputError: Some have another form; the message names all of them.
    """
    if wrong := [origin for origin in origins if _ORIGIN.fullmatch(origin) is None]:
        listed = ", ".join(map(repr, wrong))
        raise InputError(
            f"serve: {listed}: no origin; give a scheme, a host and its port as https://shop.example, or *"
        )


class CrossOrigin:
    """The origins whose pages may read answers; without any, no answer has a header of CORS."""

    def __init__(self, origins: Sequence[str] = ()) -> None:
        self._origins = frozenset(origin.lower() for origin in origins)

    def lines(self, origin: str | None) -> tuple[Line, ...]:
        """Return the CORS headers of an answer to a page of `origin`."""
        if not self._origins:
            return ()
        varies = () if "*" in self._origins else ((b"vary", b"Origin"),)
        if origin is None or not self._allows(origin):
            return varies
        allowed = "*" if "*" in self._origins else origin
        return (
            (b"access-control-allow-origin", allowed.encode("latin-1")),
            (b"access-control-expose-headers", _EXPOSED.encode()),
            *varies,
        )

    def preflight(self, method: str, headers: Headers) -> Response | None:
        """Return the answer to a browser's preflight request; None for any other request.

        The headers of `lines` are not in it: they are added to this answer as to all others.
        """
        origin = headers.get("origin")
        if not self._origins or method != "OPTIONS" or not origin or "access-control-request-method" not in headers:
            return None
        if not self._allows(origin):
            sentence = f"pages of {quoted(origin)} may not ask here; serve with --cors-origin to let them"
            return error_response(sentence, 403, "")
        allowed = {"access-control-allow-methods": _METHODS, "access-control-max-age": str(_REMEMBERED_S)}
        wanted = headers.get("access-control-request-headers", "")
        if _HEADER_NAMES.fullmatch(wanted):
            allowed["access-control-allow-headers"] = wanted
        return Response(status_code=204, headers=allowed)

    def _allows(self, origin: str) -> bool:
        return "*" in self._origins or origin.lower() in self._origins
