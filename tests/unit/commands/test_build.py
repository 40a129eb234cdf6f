"""`build`: what it passes on, and what it prints."""

from pathlib import Path

from internvl_edge.commands.build import build_command
from internvl_edge.export.plans.build import BuildOptions, build_options
from tests.unit.commands.conftest import Invoke, Replace

WORK = "internvl_edge.export.plans.build.build"
TEXT = "internvl_edge.export.plans.build_report.build_text"
TRTEXEC = "internvl_edge.export.plans.build_report.trtexec_text"


def test_options_reach_the_builder_and_its_report_is_printed(replace: Replace, invoke: Invoke) -> None:
    report = object()
    work, text, trtexec = replace(WORK, report), replace(TEXT, "a kit"), replace(TRTEXEC, "trtexec --onnx=a")
    asked = "b --target l4 --graphs vision --batch 1:2:4 --text-length 2:3:9 --max-host-mem 2GiB --attention op"
    done = invoke(build_command, asked, "--search-forms", "-o", "kit", "--trtexec")
    bundle, options, _progress = work.call_args.args
    assert bundle == Path("b")
    assert options == build_options(
        batch="1:2:4",
        text_length="2:3:9",
        max_host_mem=2 << 30,
        target="l4",
        graphs=("vision",),
        attention="op",
        search_forms=True,
        output=Path("kit"),
    )
    text.assert_called_once_with(report)
    trtexec.assert_called_once_with(report)
    assert done.stdout == "a kit\ntrtexec --onnx=a\n"


def test_defaults_are_those_of_the_builder(replace: Replace, invoke: Invoke) -> None:
    work, trtexec = replace(WORK), replace(TRTEXEC)
    replace(TEXT, "a kit")
    done = invoke(build_command, "kit")
    assert work.call_args.args[1] == BuildOptions()
    trtexec.assert_not_called()
    assert done.stdout == "a kit\n"
