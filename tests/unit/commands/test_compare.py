"""`compare`: what it passes on, and what it prints."""

from pathlib import Path

import pytest

from internvl_edge.commands.compare import compare
from internvl_edge.export.check.compare import CompareOptions
from tests.unit.commands.conftest import Invoke, Replace


@pytest.mark.parametrize(("form", "printed"), [((), "the table\n"), (("--json",), '{\n  "a": 1\n}\n')])
def test_both_bundles_and_the_options_reach_the_comparison(
    replace: Replace, invoke: Invoke, form: tuple[str, ...], printed: str
) -> None:
    found = object()
    against = replace("internvl_edge.export.check.compare.compare", found)
    text = replace("internvl_edge.export.check.compare_report.comparison_text", "the table")
    content = replace("internvl_edge.export.check.compare_report.comparison_json", {"a": 1})
    done = invoke(compare, "b r --data d --sample-count 3 --graphs vision --threshold-db 31.5", *form)
    bundle, reference, options, _progress = against.call_args.args
    assert (bundle, reference) == (Path("b"), Path("r"))
    assert options == CompareOptions(data=Path("d"), sample_count=3, graphs=("vision",), threshold_db=31.5)
    (content if form else text).assert_called_once_with(found)
    assert done.stdout == printed


def test_defaults_are_those_of_the_comparison(replace: Replace, invoke: Invoke) -> None:
    against = replace("internvl_edge.export.check.compare.compare")
    replace("internvl_edge.export.check.compare_report.comparison_text", "")
    invoke(compare, "b", "r", "--data", "d")
    assert against.call_args.args[2] == CompareOptions(data=Path("d"))
