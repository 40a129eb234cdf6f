"""The first Ctrl-C asks to finish, the second is Python's own."""

import signal
from collections.abc import Iterator

import pytest

from internvl_edge.runtime.profile.interrupt import finish_on_interrupt


@pytest.fixture(autouse=True)
def python_raises_on_interrupt() -> Iterator[None]:
    """Where tests run in the background, or behind others, SIGINT may be ignored or end the process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_asks_and_the_second_raises() -> None:
    with finish_on_interrupt() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
