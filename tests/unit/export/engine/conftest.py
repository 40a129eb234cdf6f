"""The fixtures that the tests of plans share."""

import resource
from collections.abc import Iterator

import pytest


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow past 64 KiB: what a full disk is to the writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
