"""The command `internvl-edge`: the group of all commands, and how their errors are printed."""

import errno
import sys
import unicodedata
from typing import Any

import click

from internvl_edge import __version__
from internvl_edge.commands.bench import bench
from internvl_edge.commands.build import build_command
from internvl_edge.commands.calibrate import calibrate
from internvl_edge.commands.compare import compare
from internvl_edge.commands.doctor import doctor
from internvl_edge.commands.eval import evaluate
from internvl_edge.commands.export import export
from internvl_edge.commands.inspect import inspect
from internvl_edge.commands.output.logs import configure_logging
from internvl_edge.commands.output.missing import missing_text
from internvl_edge.commands.package import package
from internvl_edge.commands.run.group import run
from internvl_edge.commands.serve import serve
from internvl_edge.commands.targets import targets
from internvl_edge.runtime.errors import EdgeError
from internvl_edge.runtime.outputs.stdout import drop_stdout, prepare_streams

_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a disk or quota without room."""
_BREAKS = ("Cc", "Zl", "Zp")
"""Unicode categories of characters that end a line or control a terminal."""


class _Group(click.Group):
    """Prints an `EdgeError` or a missing package as one line and exits with 1; other errors keep their traceback.

    A full disk under stdout is such an error. If the reader of stdout ends, the command ends silently, as `cat` does.
    """

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run the command line."""
        prepare_streams()
        try:
            return super().main(*args, **settings)
        except OSError as error:
            drop_stdout()
            if error.errno not in _FULL:
                raise
            what = error.filename or "a file or stdout"
            click.echo(f"Error: {what}: cannot be written ({error.strerror}); make room, or write elsewhere", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeError as error:
            _end(ctx, str(error))
        except ModuleNotFoundError as error:
            text = missing_text(str(ctx.invoked_subcommand), error)
            if text is None:
                raise
            _end(ctx, text)


def _end(ctx: click.Context, text: str) -> None:
    click.echo(f"Error: {_one_line(text)}", err=True)
    ctx.exit(1)


def _one_line(text: str) -> str:
    """Return `text` with line breaks and control characters, which names of files may hold, as escapes."""
    return "".join(repr(letter)[1:-1] if unicodedata.category(letter) in _BREAKS else letter for letter in text)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("-v", "--verbose", count=True, help="Log what each stage does; -vv: also log records of libraries.")
def main(verbose: int) -> None:
    """Compile InternVL checkpoints for edge and data-center GPUs, and run the bundles.

    \b
    internvl-edge export CHECKPOINT -o BUNDLE      checkpoint to verified ONNX graphs (and plans)
    internvl-edge export CHECKPOINT -o BUNDLE --precision int8 --data PICTURES
    internvl-edge eval BUNDLE --data JSONL         accuracy, and loss against another bundle
    internvl-edge compare BUNDLE CHECKPOINT --data PICTURES    first block that diverges
    internvl-edge build BUNDLE --target rtx-4090   plans, or a kit for a device that builds its own
    internvl-edge run retrieve BUNDLE IMAGES -t "a red kite"
    internvl-edge run chat BUNDLE IMAGES -q "What is it?"      a question; without -q a conversation
    internvl-edge bench BUNDLE                     latency, throughput and energy on this device
    internvl-edge inspect BUNDLE                   shapes, operators, parameters, bytes and FLOPs
    internvl-edge serve BUNDLE                     HTTP and gRPC: Open Inference Protocol, streams, embeddings
    internvl-edge package triton BUNDLE -o FOLDER  model repository for NVIDIA Triton; also: package ray
    """
    configure_logging(verbose)


_COMMANDS = (export, calibrate, evaluate, compare, build_command, targets, doctor, inspect, run, bench, serve, package)
for _command in _COMMANDS:
    main.add_command(_command)


if __name__ == "__main__":
    sys.exit(main())
