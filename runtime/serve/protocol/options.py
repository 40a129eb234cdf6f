"""Limits that apply to every protocol."""

from dataclasses import dataclass

from internvl_edge.runtime.serve.options import ServeOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolOptions:
    """Sizes of requests and time limits of connections."""

    body_bytes: int = 64 << 20
    """Largest body of one request, after decompression."""
    json_bytes: int = 16 << 20
    """Largest JSON part of a body: parsing text takes longer than reading binary tensors."""
    buffered_bytes: int = 512 << 20
    """Largest size of all bodies in memory together."""
    header_s: float = 10.0
    """Longest time to receive the head of a request."""
    body_s: float = 30.0
    """Longest time to receive the body of a request."""
    write_s: float = 30.0
    """Longest time that a client may read nothing of its answer."""
    deadline_s: float = 0.5
    """Deadline of a request of one batch that sets none."""
    answer_s: float = 300.0
    """Deadline of a request for an answer of a chat model that sets none."""
    drain_s: float = 30.0
    """Longest time that accepted requests may take to finish after SIGTERM or SIGINT."""
    max_batch: int = 16
    """Largest number of rows in one batch; the model configuration shows it to clients."""
    picture_bytes: int = 16 << 20
    """Largest file of one picture for a chat model."""

    @classmethod
    def of(cls, engine: ServeOptions, drain_s: float) -> "ProtocolOptions":
        """Return the limits of a server whose engine has these options."""
        return cls(
            body_bytes=engine.max_body_bytes,
            deadline_s=engine.deadline_ms / 1e3,
            answer_s=engine.answer_deadline_s,
            drain_s=drain_s,
            max_batch=engine.max_batch,
            picture_bytes=engine.max_picture_bytes,
        )
