"""Fixtures that every room's tests share."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from internvl_edge.runtime.cache_folder import cache_folder as users_cache_folder
from tests.project import ROOT

if TYPE_CHECKING:
    from tests.exports import Exports

settings.register_profile(
    "repeat", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.register_profile("explore", settings.get_profile("repeat"), derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))
"""A run is red for a change, not for chance or load; ``HYPOTHESIS_PROFILE=explore`` looks for new examples."""

SECONDS = ROOT / "tests" / "seconds.json"
"""Test file -> seconds it took when last measured, for the files that take long."""
LONG_S = 2.0
_TAKEN: Counter[str] = Counter()
"""Test file -> seconds of its set-ups, calls and tear-downs in this run, on all workers."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make gpu-check` say where its report goes, and a run of the whole suite which files take long."""
    parser.addoption("--gpu-report", type=Path, help="Write what the gpu checks found to this JSON file.")
    parser.addoption("--measure", action="store_true", help=f"Write the seconds of long test files to {SECONDS.name}.")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, so that no worker begins one of them when the others have finished."""
    seconds = json.loads(SECONDS.read_text())
    items.sort(key=lambda item: -seconds.get(_file_of(item.nodeid), 0.0))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add the seconds of a set-up, a call or a tear-down."""
    _TAKEN[_file_of(report.nodeid)] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the seconds, where that was asked for; the process that starts the workers does it."""
    if session.config.getoption("--measure") and not hasattr(session.config, "workerinput"):
        long = {name: round(taken, 1) for name, taken in _TAKEN.most_common() if taken > LONG_S}
        SECONDS.write_text(json.dumps(long, indent=2) + "\n")


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


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
def exports(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Exports]":
    """Bundles, ranges and traced graphs that are made once in a run, however many workers it has."""
    from tests import traces
    from tests.exports import Exports

    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "exports"
    folder.mkdir(exist_ok=True)
    made = Exports(folder)
    with traces.shared(made.traces):
        yield made


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


@pytest.fixture(scope="session")
def chat_example() -> Path:
    """The trained chat checkpoint with its questions and the reference's answers."""
    return ROOT / "examples" / "chat"
