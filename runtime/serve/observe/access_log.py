"""The access log: one line of JSON for each request."""

import json
import sys
import time
from typing import TextIO

from internvl_edge.runtime.serve.observe.exchange import Answered, Exchange


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
            **_answered(exchange.answered),
            "trace_id": exchange.trace.trace_id,
        }
        try:
            self._stream.write(json.dumps({key: value for key, value in line.items() if value != ""}) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe, or a stream that was closed here
            pass


def _answered(answered: Answered | None) -> dict[str, object]:
    if answered is None:
        return {}
    return {
        "prompt_tokens": answered.prompt_tokens,
        "completion_tokens": answered.completion_tokens,
        "finish_reason": answered.finish_reason,
        "first_ms": round(answered.first_s * 1e3, 3),
    }
