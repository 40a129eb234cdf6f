"""`export`: what it passes on, and what it prints."""

from pathlib import Path

import pytest

from internvl_edge.commands.export import export
from internvl_edge.export.run.options import ExportOptions
from tests.unit.commands.conftest import Invoke, Replace

WORK = "internvl_edge.export.compile.export_bundle"
TEXT = "internvl_edge.export.export_report.report_text"


def test_defaults_are_those_of_the_compiler(replace: Replace, invoke: Invoke) -> None:
    report = object()
    work, text = replace(WORK, report), replace(TEXT, "written")
    done = invoke(export, "c", "-o", "b")
    assert work.call_args.args[0] == ExportOptions(checkpoint="c", output=Path("b"))
    text.assert_called_once_with(report)
    assert done.stdout == "written\n"


def test_every_option_reaches_the_compiler(replace: Replace, invoke: Invoke, tmp_path: Path) -> None:
    work = replace(WORK)
    replace(TEXT, "")
    asked = (
        "c -o b --graphs vision,text --dtype bf16 --weights copy --image-size 28 --feature-layers 1,3"
        " --target l4 --atol 0.5 --on-overflow refuse --sample-count 3 --revision main --accept-config x"
        " --state-dict ema --precision fp8 --data d --calibration-samples 9 --ranges r --method mse --smooth"
        " 0.5 --keep-high a --keep-high b* --fp8-attention --max-drop 1.5 --budget-layers 4 --gate-samples 8"
    )
    invoke(export, asked, "--samples", tmp_path)
    assert work.call_args.args[0] == ExportOptions(
        checkpoint="c",
        output=Path("b"),
        graphs=("vision", "text"),
        dtype="bf16",
        weights="copy",
        image_size=28,
        feature_layers=(1, 3),
        target="l4",
        atol=0.5,
        on_overflow="refuse",
        samples=tmp_path,
        sample_count=3,
        revision="main",
        accept_config=("x",),
        state_dict="ema",
        precision="fp8",
        data="d",
        calibration_samples=9,
        ranges=Path("r"),
        method="mse",
        smooth="0.5",
        keep_high=("a", "b*"),
        fp8_attention=True,
        max_drop=1.5,
        budget_layers=4,
        gate_samples=8,
    )


@pytest.mark.parametrize(
    ("alias", "field", "value"),
    [
        ("--high_precision_dtype", "dtype", "fp32"),
        ("--nodes_to_exclude", "keep_high", "head"),
    ],
)
def test_names_of_optimum_mean_the_same(replace: Replace, invoke: Invoke, alias: str, field: str, value: str) -> None:
    work = replace(WORK)
    replace(TEXT, "")
    quantized = ("--precision", "int8", "--data", "d") if field == "keep_high" else ()
    invoke(export, "c", "-o", "b", *quantized, alias, value)
    found = getattr(work.call_args.args[0], field)
    assert found in (value, (value,))


def test_the_help_says_which_pictures_verify_the_graphs(invoke: Invoke) -> None:
    """`load_samples` takes the first ones, without --samples of the checkpoint's folder."""
    text = " ".join(invoke(export, "--help").stdout.split())
    assert "Number of pictures to take from --samples, the first ones." in text
    assert "default: (pictures in CHECKPOINT, else synthetic ones)" in text


def test_samples_that_are_not_there_are_a_mistake_of_use(replace: Replace, invoke: Invoke) -> None:
    work = replace(WORK)
    done = invoke(export, "c", "-o", "b", "--samples", "gone")
    assert done.exit_code == 2
    assert "gone" in done.stderr
    work.assert_not_called()
