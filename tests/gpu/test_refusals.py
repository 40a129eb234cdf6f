"""Plans that must not run: what the library says of them on a device, and whether we know what it means."""

from collections.abc import Callable
from pathlib import Path

import pytest

from internvl_edge.export.engine.tensorrt_messages import explain
from internvl_edge.export.plans.build import BuildOptions
from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.flavour import Flavour, load_flavour
from internvl_edge.runtime.targets.sms import RTX_SMS
from internvl_edge.runtime.targets.targets import find_target
from tests.gpu.agree import Record
from tests.gpu.built import Built, linked, with_plans
from tests.gpu.marks import GPU
from tests.gpu.plans import recording_log

pytestmark = GPU

VISION = BuildOptions(graphs=("vision",))


@pytest.mark.parametrize("side", ["older", "newer"])
def test_a_plan_of_another_sm_is_refused_in_known_words(
    device: Device,
    rtx: Flavour,
    bundles: Callable[[str], Path],
    tmp_path: Path,
    side: str,
    record_property: Record,
) -> None:
    others = [sm for sm in RTX_SMS if (sm < device.sm if side == "older" else sm > device.sm)]
    if not others:
        pytest.skip(f"TensorRT-RTX builds for no SM {side} than sm_{device.sm}.")
    nearest = others[-1] if side == "older" else others[0]
    foreign = with_plans(linked(bundles("fp16"), tmp_path / "bundle"), find_target(f"sm_{nearest}"), rtx, VISION)
    record_property("plan_sm", nearest)
    _require_known_refusal(rtx, foreign.plan_file("vision").read_bytes(), record_property)


@pytest.mark.parametrize("kept", ["half", "a header"])
def test_a_truncated_plan_is_refused_in_known_words(
    flavour: Flavour, built: Callable[..., Built], kept: str, record_property: Record
) -> None:
    plan = built("fp16", VISION).plan_file("vision").read_bytes()
    cut = plan[: len(plan) // 2 if kept == "half" else 64]
    assert "cut short" in _require_known_refusal(flavour, cut, record_property)


def test_a_plan_of_the_other_flavour_is_refused_in_known_words(
    flavour: Flavour, built: Callable[..., Built], record_property: Record
) -> None:
    other = "tensorrt" if flavour.name == "tensorrt_rtx" else "tensorrt_rtx"
    try:
        reader = load_flavour(other)
    except EngineError as error:
        pytest.skip(f"This check needs both flavours of TensorRT, and one cannot be loaded: {error}.")
    _require_known_refusal(reader, built("fp16", VISION).plan_file("vision").read_bytes(), record_property)


def _require_known_refusal(reader: Flavour, plan: bytes, record: Record) -> str:
    """Hold that `reader` makes nothing of `plan`; return what our table says of the first message that it knows.

    A plan may pass deserialization and fail for its context; both are refusals before anything runs.
    """
    log = recording_log(reader.trt)
    log.said.clear()
    runtime = reader.trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context() if engine is not None else None
    record("said", " / ".join(log.said))
    assert context is None, "the library takes the plan"
    meanings = [meaning for message in log.said if (meaning := explain(message)) is not None]
    assert meanings, f"no message is in the table: {log.said}"
    record("cause", meanings[0].cause)
    return meanings[0].cause
