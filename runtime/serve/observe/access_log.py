"""The access log: one line of JSON for each request."""

import json
import sys
import time
from typing import TextIO

from internvl_edge.runtime.serve.observe.exchange import Exchange


class AccessLog:
    """The log of requests on a stream; a closed stream does not make requests fail."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def write(self, exchange: Exchange) -> None:
        """Write the line of a request that has ended."""
        line = {
            "time": round(time.time(), 3),
            "protocol": exchange.protocol,
            "method": exchange.method,
            "model": exchange.model,
            "id": exchange.id,
            "client": exchange.client,
            "status": exchange.status,
            "refusal": exchange.refusal,
            "ms": round(exchange.seconds * 1e3, 3),
            "trace_id": exchange.trace.trace_id,
        }
        try:
            self._stream.write(json.dumps({key: value for key, value in line.items() if value != ""}) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe, or a stream that was closed here
            pass
