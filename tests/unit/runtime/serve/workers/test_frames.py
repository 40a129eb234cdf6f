"""Messages cut into frames and put together again, in pieces of any size."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.runtime.serve.workers.frames import FrameReader, frame


def through(content: bytes, sizes: list[int]) -> list[Any]:
    reader, messages, given_bytes, turn = FrameReader(), [], 0, 0
    while given_bytes < len(content):
        space = reader.space()
        count = min(len(space), sizes[turn % len(sizes)], len(content) - given_bytes)
        space[:count] = content[given_bytes : given_bytes + count]
        given_bytes += count
        turn += 1
        messages += reader.received(count)
    return messages


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=5), st.integers(0, 9))
def test_frames_survive_any_cut(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = {"a": rng.normal(size=(seed, 7)).astype(np.float32), "b": rng.integers(0, 9, (3, seed + 1))}
    texts = np.array([b"x" * seed, b""], np.object_)
    content = b"".join(piece for message in (arrays, "between", texts) for piece in frame(message))
    first, second, third = through(content, sizes)
    for name, values in arrays.items():
        np.testing.assert_array_equal(first[name], values)
        assert first[name].dtype == values.dtype
    assert second == "between"
    assert third.tolist() == texts.tolist()


def test_received_arrays_are_aligned_and_writable() -> None:
    content = b"".join(frame([np.ones(count, np.float32) for count in (1, 3, 5, 300_000)]))
    (arrays,) = through(content, [1 << 16])
    for array in arrays:
        assert array.flags.aligned
        assert array.flags.writeable
        assert array.ctypes.data % 16 == 0


def test_large_arrays_are_sent_from_where_they_lie() -> None:
    large = np.zeros(1 << 20, np.uint8)
    assert any(isinstance(piece, memoryview) and piece.nbytes == large.nbytes for piece in frame({"x": large}))
    assert len(frame({"x": large[:100]})) == 1
