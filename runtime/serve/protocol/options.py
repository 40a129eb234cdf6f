"""Limits that hold for every protocol."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolOptions:
    """What a client may send, and how long it may take."""

    body_bytes: int = 64 << 20
    """Of one request, after decompression."""
    json_bytes: int = 16 << 20
    """Of the JSON in it: text costs more time to read than tensors do."""
    buffered_bytes: int = 512 << 20
    """Of all bodies that are held at once."""
    header_s: float = 10.0
    """For a request's head."""
    body_s: float = 30.0
    """For its body."""
    write_s: float = 30.0
    """In which a client takes none of its answer."""
    deadline_s: float = 0.5
    """Of a request that sets none."""
    drain_s: float = 30.0
    """In which accepted requests may finish once the server is told to stop."""
    max_batch: int = 16
    """Rows that are joined at most: clients plan by it."""
