"""The report of `make gpu-check` on made-up results."""

from typing import Any

from tests.gpu.report import check_of, check_title, report_markdown

DEVICE = {"name": "NVIDIA L4", "sm": 89, "memory_bytes": 24 << 30, "driver": "13.0"}
FAILURE = "def test_x():\n>   assert 2 < 1\nE   assert 2 < 1 | really\n\ntests/gpu/test_plans.py:9: AssertionError"


def written(*checks: dict[str, Any], device: dict[str, Any] | str = DEVICE) -> list[str]:
    content = {"device": device, "versions": {"torch": "2.9", "pycuda": None}, "checks": list(checks)}
    return report_markdown(content).splitlines()


def test_the_head_says_device_versions_and_counts() -> None:
    passed = check_of("tests/gpu/test_a.py::test_b", "passed", "", {}, 1.0)
    skipped = check_of("tests/gpu/test_a.py::test_c", "skipped", "Skipped: It lacks a thing.", {}, 0.0)
    lines = written(passed, skipped)
    assert "- device: NVIDIA L4, sm_89, 24.0 GiB, CUDA 13.0" in lines
    assert "- torch: 2.9" in lines
    assert "- pycuda: not installed" in lines
    assert "- checks: 1 passed, 0 failed, 1 skipped" in lines
    assert "- device: none (no driver)" in written(device="no driver")


def test_a_check_is_a_row_with_its_figures() -> None:
    figures = {"median_ms": 0.123456, "weight_bytes": 608024576, "worst_output": "logits"}
    lines = written(check_of("tests/gpu/test_plans.py::test_it_runs[fp16-text]", "passed", "", figures, 1.23456))
    row = "| it runs: fp16, text | passed | median_ms 0.1235; weight_bytes 608,024,576; worst_output logits |  |"
    assert row in lines


def test_a_skip_gives_its_reason_once() -> None:
    skipped = check_of("tests/gpu/test_a.py::test_c", "skipped", "Skipped: It lacks a thing.", {}, 0.0)
    assert "| c | skipped |  | It lacks a thing. |" in written(skipped)


def test_a_failure_has_one_line_in_the_table_and_its_whole_text_below() -> None:
    lines = written(check_of("tests/gpu/test_a.py::test_x", "failed", FAILURE, {}, 0.5))
    assert "| x | failed |  | assert 2 < 1 \\| really |" in lines
    below = lines[lines.index("## x") + 2 :]
    assert below[: len(FAILURE.splitlines())] == [f"    {line}".rstrip() for line in FAILURE.splitlines()]


def test_a_failure_without_a_marked_line_shows_its_last() -> None:
    assert "| x | failed |  | it broke |" in written(
        check_of("test_a.py::test_x", "failed", "first\nit broke\n", {}, 0)
    )
    assert "| x | failed |  | no reason was given |" in written(check_of("test_a.py::test_x", "failed", "", {}, 0))


def test_a_title_reads_as_words() -> None:
    assert check_title("test_plans.py::test_a_plan_runs[fp16-text]") == "a plan runs: fp16, text"
    assert check_title("test_plans.py::test_alone") == "alone"
