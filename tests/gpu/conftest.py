"""What `make gpu-check` leaves behind: one JSON with the device and the outcome, reason and figures of every check."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.runtime.cuda import Device, find_device

_RESULTS = pytest.StashKey[list[dict[str, Any]]]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep the outcome of a check: that of its call, or of a set-up that skipped or failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" or report.outcome != "passed":
        found = item.config.stash.setdefault(_RESULTS, [])
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr or "")
        found.append(
            {
                "check": report.nodeid.rpartition("/")[2],
                "outcome": report.outcome,
                "reason": reason,
                "figures": dict(report.user_properties),
                "seconds": round(report.duration, 3),
            }
        )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report where it was asked for."""
    file = session.config.getoption("--gpu-report")
    if file is not None:
        device = find_device()
        content = {
            "device": asdict(device) if isinstance(device, Device) else device,
            "checks": session.config.stash.get(_RESULTS, []),
        }
        Path(file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
