"""`calibrate`: what it passes on, and what it prints."""

from pathlib import Path

from internvl_edge.commands.calibrate import calibrate
from internvl_edge.export.calibrate import CalibrateOptions
from tests.unit.commands.conftest import Invoke, Replace


def test_options_reach_the_measurement_and_its_report_is_printed(replace: Replace, invoke: Invoke) -> None:
    report = object()
    measure = replace("internvl_edge.export.calibrate.calibrate", report)
    text = replace("internvl_edge.export.export_report.ranges_text", "ranges of 3 blocks")
    asked = "c --data d -o out --sample-count 7 --calibration_method mse --graphs vision,text --image-size 28"
    done = invoke(
        calibrate, asked, "--compute", "bf16", "--revision", "main", "--accept-config", "x", "--state-dict", "ema"
    )
    (options, _progress), _ = measure.call_args
    assert options == CalibrateOptions(
        checkpoint="c",
        output=Path("out"),
        data="d",
        sample_count=7,
        method="mse",
        graphs=("vision", "text"),
        image_size=28,
        compute="bf16",
        revision="main",
        accept_config=("x",),
        state_dict="ema",
    )
    text.assert_called_once_with(report)
    assert done.stdout == "ranges of 3 blocks\n"


def test_defaults_are_those_of_the_measurement(replace: Replace, invoke: Invoke) -> None:
    measure = replace("internvl_edge.export.calibrate.calibrate")
    replace("internvl_edge.export.export_report.ranges_text", "")
    invoke(calibrate, "c", "-o", "out", "--data", "d")
    assert measure.call_args.args[0] == CalibrateOptions(checkpoint="c", output=Path("out"), data="d")


def test_parts_are_merged_in_the_order_given(replace: Replace, invoke: Invoke) -> None:
    measure = replace("internvl_edge.export.calibrate.calibrate")
    replace("internvl_edge.export.export_report.ranges_text", "")
    invoke(calibrate, "c", "-o", "out", "--merge", "b", "--merge", "a")
    assert measure.call_args.args[0].merge == (Path("b"), Path("a"))
