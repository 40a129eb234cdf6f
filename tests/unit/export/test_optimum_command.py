"""The subcommand as Optimum finds, parses and runs it: through its own registry and its own main()."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("optimum.commands.optimum_cli", reason="the extra `optimum` is not installed")

from optimum.commands import optimum_cli
from optimum.commands.export.base import ExportCommand

from internvl_edge.export import compile as compiler
from internvl_edge.export import export_report as report
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.runtime.bundle.bundle import Bundle


def optimum(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    """Run ``optimum-cli`` in this process."""
    monkeypatch.setattr(sys, "argv", ["optimum-cli", *(str(argument) for argument in arguments)])
    optimum_cli.main()


def test_optimum_finds_the_command_under_export_once() -> None:
    found = [(c, parent) for c, parent in optimum_cli.load_optimum_namespace_cli_commands() if parent is ExportCommand]
    assert [command.COMMAND.name for command, _ in found].count("internvl-edge") == 1


def test_only_what_is_given_overrides_the_defaults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[ExportOptions] = []
    monkeypatch.setattr(compiler, "export_bundle", lambda options, progress: seen.append(options))
    monkeypatch.setattr(report, "report_text", lambda result: "the report")
    optimum(monkeypatch, "export", "internvl-edge", "-m", "org/model", "out")
    optimum(
        monkeypatch,
        *("export", "internvl-edge", "--model", "folder", "out", "--graphs", "vision, text", "--dtype", "bf16"),
        *("--weights", "copy", "--image-size", "336", "--target", "l4", "--atol", "0.5", "--samples", "pictures"),
        *("--revision", "main"),
    )
    assert seen == [
        ExportOptions(checkpoint="org/model", output=Path("out")),
        ExportOptions(
            checkpoint="folder",
            output=Path("out"),
            graphs=("vision", "text"),
            dtype="bf16",
            weights="copy",
            image_size=336,
            target="l4",
            atol=0.5,
            samples=Path("pictures"),
            revision="main",
        ),
    ]
    assert capsys.readouterr().out == "the report\nthe report\n"


def test_it_exports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], golden_b: Path, tmp_path: Path
) -> None:
    source, output = golden_b / "checkpoint_vit", tmp_path / "bundle"
    optimum(monkeypatch, "export", "internvl-edge", "-m", source, output, "--dtype", "fp32", "--graphs", "vision")
    assert list(Bundle.open(output).manifest.graphs) == ["vision"]
    assert capsys.readouterr().out.startswith(f"{output}: vision\n")


def test_an_error_is_one_line_and_exit_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        optimum(monkeypatch, "export", "internvl-edge", "-m", tmp_path / "absent", tmp_path / "bundle")
    message = str(caught.value.code)  # Python prints a text to stderr and exits with 1
    assert message.startswith("Error: ")
    assert "absent" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        optimum(monkeypatch, "export", "internvl-edge", "out")
    assert caught.value.code == 2
    assert "-m/--model" in capsys.readouterr().err
