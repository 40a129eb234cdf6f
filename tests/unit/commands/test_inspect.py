"""`inspect`: a bundle or a plan, and what does not go together."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from internvl_edge.commands.inspect import inspect
from tests.unit.commands.conftest import Invoke, Replace

STATS = "internvl_edge.runtime.inspect.graph_stats"
XRAY = "internvl_edge.runtime.inspect.xray"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "give either BUNDLE or --engine PLAN"),
        (["b", "--engine", "p"], "give either BUNDLE or --engine PLAN"),
        (["b", "--diff", "p", "--target", "l4"], "--diff, --target: for plans only; give --engine PLAN"),
        (["b", "--shape", "x=1x2", "--html", "h"], "--shape, --html: for plans only; give --engine PLAN"),
    ],
)
def test_what_does_not_go_together_is_a_mistake_of_use(invoke: Invoke, asked: list[str], message: str) -> None:
    done = invoke(inspect, *asked)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize(("form", "printed"), [((), "vision\n"), (("--json",), '{\n  "a": 1\n}\n')])
def test_a_bundle_is_counted_for_the_batch_and_length(
    replace: Replace, invoke: Invoke, form: tuple[str, ...], printed: str
) -> None:
    work = replace(f"{STATS}.inspect_bundle")
    replace(f"{STATS}.stats_text", "vision")
    replace(f"{STATS}.to_json", {"a": 1})
    done = invoke(inspect, "b", "--batch", "3", "--length", "7", *form)
    work.assert_called_once_with(Path("b"), {"batch": 3, "texts": 3, "length": 7})
    assert done.stdout == printed


@pytest.fixture
def xray(replace: Replace) -> Mock:
    """Give what the plan's path is, for the report and for its JSON; the target is made of the plan's name."""
    called = replace(f"{XRAY}.xray_report.xray")
    called.side_effect = lambda plan, **_settings: plan
    replace(f"{XRAY}.target_of.target_of").side_effect = lambda plan, target: f"{target} of {plan}"
    replace(f"{XRAY}.xray_report.xray_json").side_effect = str
    replace(f"{XRAY}.text.xray_text").side_effect = lambda found: f"launches of {found}"
    replace(f"{XRAY}.diff.diff_text").side_effect = lambda found, other: f"{found} against {other}"
    replace(f"{XRAY}.xray_page.render_page").side_effect = lambda found: f"page of {found}"
    return called


@pytest.mark.parametrize(
    ("asked", "printed"),
    [
        (["--engine", "p"], "launches of p\n"),
        (["--engine", "p", "--diff", "q"], "p against q\n"),
        (["--engine", "p", "--json"], '"p"\n'),
        (["--engine", "p", "--diff", "q", "--json"], '{\n  "a": "p",\n  "b": "q"\n}\n'),
    ],
)
@pytest.mark.usefixtures("xray")
def test_a_plan_alone_or_against_another(invoke: Invoke, asked: list[str], printed: str) -> None:
    assert invoke(inspect, *asked).stdout == printed


def test_target_and_shapes_are_those_of_both_plans(invoke: Invoke, xray: Mock) -> None:
    invoke(inspect, "--engine", "p", "--diff", "q", "--target", "l4", "--shape", "x=1x3", "--shape", "y=2")
    sizes = {"x": (1, 3), "y": (2,)}
    assert [call.args for call in xray.call_args_list] == [(Path("p"),), (Path("q"),)]
    assert [call.kwargs for call in xray.call_args_list] == [
        {"target": "l4 of p", "sizes": sizes},
        {"target": "l4 of q", "sizes": sizes},
    ]


@pytest.mark.usefixtures("xray")
def test_a_page_is_written_beside_the_text(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke(inspect, "--engine", "p", "--html", tmp_path / "p.html")
    assert (tmp_path / "p.html").read_text() == f"page of {{'p': {Path('p')!r}}}"
    assert done.stdout == "launches of p\n"
