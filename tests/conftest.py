"""Fixtures that every room's tests share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from internvl_edge.runtime.cache_folder import cache_folder as users_cache_folder
from tests.project import ROOT

settings.register_profile(
    "repeat", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.register_profile("explore", settings.get_profile("repeat"), derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))
"""A run is red for a change, not for chance or load; ``HYPOTHESIS_PROFILE=explore`` looks for new examples."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make gpu-check` say where its report goes."""
    parser.addoption("--gpu-report", type=Path, help="Write what the gpu checks found to this JSON file.")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: those of a compressed file hold the second in which they were made, and pytest's
    workers have to agree on the names of all tests."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator: random input that is the same in every run."""
    return np.random.default_rng(20231222)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the runtime keeps of a user stays out of the tests, and theirs out of the user's.

    Compiled kernels alone are shared with the user and with later runs: their names hold a digest of all that they
    depend on, and to compile them takes minutes.
    """
    kernels = users_cache_folder() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    own = tmp_path_factory.mktemp("cache")
    (own / "kernels").symlink_to(kernels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERNVL_EDGE_CACHE", str(own))
        yield


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_raises() -> Iterator[None]:
    """Where a shell starts the tests in the background SIGINT is ignored, and so it would be in all that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def golden_a() -> Path:
    """InternVL-14B style case: checkpoints and recorded reference outputs."""
    return ROOT / "tests" / "data" / "golden" / "case_a_internvl14b"


@pytest.fixture(scope="session")
def golden_b() -> Path:
    """InternViT-300M style case with a chat connector."""
    return ROOT / "tests" / "data" / "golden" / "case_b_internvit300m"


@pytest.fixture(scope="session")
def emoji() -> Path:
    """The trained demo checkpoint with its pictures and captions."""
    return ROOT / "examples" / "emoji"
