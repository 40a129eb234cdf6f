"""Run the commands of `make demo` and draw their output: `python benchmarks/demo_picture.py docs/demo.svg`."""

import re
import subprocess
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

WIDTH = 118
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
def main(output: Path) -> None:
    """Draw the output of `make demo` to the SVG file OUTPUT."""
    lines = subprocess.run(["make", "demo"], capture_output=True, text=True, check=True).stdout.splitlines()
    console = Console(record=True, width=WIDTH, file=sys.stdout)
    console.print(Text("$ make demo", style="bold"))
    shown = True
    for line in lines:
        command = line.startswith((".venv/bin/", "  -t "))
        if line.startswith(".venv/bin/"):
            shown = "internvl-edge" in line  # unpacking the pictures is not of interest
        if shown:
            console.print(Text(line.replace(".venv/bin/", "$ "), style="bold cyan" if command else ""))
    svg = console.export_svg(title="internvl-edge")
    output.write_text(_FONT_FACE.sub("", svg), encoding="utf-8")  # the reader's own monospace font, nothing fetched


if __name__ == "__main__":
    main()
