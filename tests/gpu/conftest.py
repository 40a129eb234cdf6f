"""What the checks share: the device, the libraries, the demo's plans; and the report that `make gpu-check` leaves."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.export.compile import export_bundle
from internvl_edge.export.plans.build import BuildOptions
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.runtime.backends.cuda import Device, find_device
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.inspect.doctor import diagnose
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.flavour import Flavour, load_flavour
from internvl_edge.runtime.targets.sms import RTX_SMS
from internvl_edge.runtime.targets.targets import find_target
from tests.gpu.built import Built, linked, with_plans
from tests.gpu.free_memory import free_memory, lacking_for_large
from tests.gpu.report import check_of, report_markdown

_RESULTS = pytest.StashKey[list[dict[str, Any]]]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep the outcome of a check: that of its call, or of a set-up that skipped or failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" or report.outcome != "passed":
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr or "")
        figures = dict(report.user_properties)
        found = item.config.stash.setdefault(_RESULTS, [])
        found.append(check_of(report.nodeid, report.outcome, reason, figures, report.duration))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report where it was asked for, and the same in Markdown beside it."""
    file = session.config.getoption("--gpu-report")
    if file is not None:
        found = diagnose(None, None)
        content = {
            "device": asdict(found.device) if isinstance(found.device, Device) else found.device,
            "versions": found.packages,
            "checks": session.config.stash.get(_RESULTS, []),
        }
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        file.with_suffix(".md").write_text(report_markdown(content), encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say where the report lies."""
    file = config.getoption("--gpu-report")
    if file is not None:
        terminalreporter.write_line(f"report: {file.with_suffix('.md').resolve()}, and as JSON {file.resolve()}")


@pytest.fixture(scope="session")
def device() -> Device:
    """The first GPU, with a torch that can hold buffers on it."""
    found = find_device()
    if not isinstance(found, Device):
        pytest.skip(f"Plans run on a GPU alone, and this machine has {found}.")
    try:
        find_target(f"sm_{found.sm}")
    except EngineError as error:
        pytest.skip(f"{found.name} is not a device that plans are built for: {error}.")
    import torch

    if torch.version.cuda is None:
        pytest.skip("CUDA tensors hold the buffers, and this torch is built without CUDA; install one with it.")
    if not torch.cuda.is_available():
        pytest.skip(
            f"CUDA tensors hold the buffers, and torch with CUDA {torch.version.cuda} cannot use {found.name} under a "
            f"driver for CUDA {found.driver}."
        )
    return found


@pytest.fixture(scope="session")
def target(device: Device) -> Target:
    """What plans are built for: the device's own SM."""
    return find_target(f"sm_{device.sm}")


@pytest.fixture(scope="session", params=["tensorrt_rtx", "tensorrt"])
def flavour(request: pytest.FixtureRequest, device: Device) -> Flavour:
    """Each TensorRT that is here and can run on the device."""
    if request.param == "tensorrt_rtx" and device.sm not in RTX_SMS:
        pytest.skip(f"TensorRT-RTX does not build for sm_{device.sm}, which {device.name} is.")
    try:
        return load_flavour(request.param)
    except EngineError as error:
        pytest.skip(f"This check needs a library that cannot be loaded: {error}.")


@pytest.fixture(scope="session")
def rtx(flavour: Flavour) -> Flavour:
    """TensorRT-RTX, for checks of what it alone offers."""
    if flavour.name != "tensorrt_rtx":
        pytest.skip("Plans of the standard TensorRT neither list their launches nor are built for another device.")
    return flavour


@pytest.fixture(scope="session")
def bundles(emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Export the demo in fp16, or with 8-bit linears in it."""

    @cache
    def export(precision: str) -> Path:
        output = tmp_path_factory.mktemp(precision) / "bundle"
        settings: dict[str, Any] = {}
        if precision != "fp16":
            data = str(emoji / "data" / "calibration.jsonl")
            settings = {"precision": precision, "data": data, "calibration_samples": 32, "gate_samples": 0}
        export_bundle(ExportOptions(checkpoint=str(emoji / "checkpoint"), output=output, **settings))
        return output

    return export


@pytest.fixture(scope="session")
def built(
    bundles: Callable[[str], Path], target: Target, flavour: Flavour, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Built]:
    """Build all graphs of the demo in a precision, with options; once each."""

    @cache
    def build(precision: str, options: BuildOptions) -> Built:
        if precision == "fp8" and not target.fp8:
            pytest.skip(f"sm_{target.sm} has no units for FP8; they begin with sm_89.")
        folder = linked(bundles(precision), tmp_path_factory.mktemp(f"{flavour.name}-{precision}") / "bundle")
        return with_plans(folder, target, flavour, options)

    return build


@pytest.fixture(scope="session")
def large_bundle(device: Device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export InternViT-300M with random weights: what a product costs does not depend on their values."""
    folder = tmp_path_factory.mktemp("internvit-300m")
    if (lacking := lacking_for_large(free_memory(folder, device))) is not None:
        pytest.skip(lacking)
    from random_checkpoint import write_checkpoint

    write_checkpoint(folder / "checkpoint", "internvit-300m")
    export_bundle(ExportOptions(checkpoint=str(folder / "checkpoint"), output=folder / "bundle"))
    return folder / "bundle"


@pytest.fixture(scope="session")
def large(
    large_bundle: Path, target: Target, flavour: Flavour, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Built]:
    """Build the large model with its attention as one operation or as a pattern; once each."""

    @cache
    def build(attention: str) -> Built:
        if attention == "op" and not flavour.capabilities.attention:
            pytest.skip(f"{flavour.name} {flavour.version} has no operation for attention, only the pattern.")
        folder = linked(large_bundle, tmp_path_factory.mktemp(f"{flavour.name}-{attention}") / "bundle")
        return with_plans(folder, target, flavour, BuildOptions(attention=attention))

    return build
