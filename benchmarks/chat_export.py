"""Seconds and peak memory of exporting a chat model's language model, ours and optimum's: `chat_export.py FOLDER`.

PYTHON of --optimum is the interpreter of an environment with optimum-onnx and optimum-intel. The checkpoint is random,
of InternVL2.5-1B's size; the peers get its language model as a plain Qwen2 checkpoint, ours the chat checkpoint with
`--graphs llm`.
"""

import shutil
import sys
from pathlib import Path

import click
from export_scale import machine, measured
from native_checkpoint import write_language_model
from random_checkpoint import write_checkpoint


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--optimum", required=True, help="Python of an environment with optimum-onnx and optimum-intel.")
@click.option("--preset", default="internvl2_5-1b", show_default=True)
def main(folder: Path, optimum: str, preset: str) -> None:
    """Print a Markdown table."""
    official, plain, out = folder / "official", folder / "qwen2", folder / "exported"
    write_checkpoint(official, preset, dtype="bfloat16", tokenizer=True)
    write_language_model(official, plain)
    cli = [str(Path(optimum).parent / "optimum-cli"), "export"]
    task = ["--task", "text-generation-with-past", "--model", str(plain)]
    commands = {
        "ours, `--graphs llm`": [
            *(sys.executable, "-m", "internvl_edge.cli", "export"),
            *(str(official), "-o", str(out), "--graphs", "llm"),
        ],
        "optimum-onnx": [*cli, "onnx", *task, str(out)],
        "optimum-intel (OpenVINO)": [*cli, "openvino", *task, "--weight-format", "fp16", str(out)],
    }
    click.echo(f"{machine()}\n\n| export | seconds | peak GiB |\n| --- | ---: | ---: |")
    try:
        for what, command in commands.items():
            try:
                seconds, peak = measured(command)
                click.echo(f"| {what} | {seconds:.1f} | {peak:.2f} |")
            finally:
                shutil.rmtree(out, ignore_errors=True)
    finally:
        shutil.rmtree(official, ignore_errors=True)
        shutil.rmtree(plain, ignore_errors=True)


if __name__ == "__main__":
    main()
