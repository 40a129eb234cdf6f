"""The subcommand `internvl-edge` of `optimum-cli export`.

This file is installed into ``optimum.commands.register`` (see ``package-dir`` in pyproject.toml), the namespace package
in which Optimum looks for subcommands. Every start of `optimum-cli` loads it, so `run` imports everything else.
"""

from argparse import SUPPRESS, ArgumentParser
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class InternVLEdgeExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]
    """Command `internvl-edge export` as a subcommand of Optimum, with the flags of `optimum-cli export onnx`."""

    COMMAND = CommandInfo(name="internvl-edge", help="Export InternVL checkpoints to a bundle of verified ONNX graphs.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments without defaults, since `ExportOptions` has them."""
        parser.argument_default = SUPPRESS
        parser.description = InternVLEdgeExportCommand.COMMAND.help
        parser.add_argument("-m", "--model", dest="checkpoint", required=True, help="Folder, .pth file or Hub id.")
        parser.add_argument("output", type=Path, help="Bundle folder to write.")
        parser.add_argument("--graphs", type=_names, help="Graphs to write, as vision,text. Default: all there are.")
        parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], help="Type of weights and activations: fp16.")
        parser.add_argument("--weights", choices=["auto", "copy", "link"], help="Share blocks, rewrite, or hard-link.")
        parser.add_argument("--image-size", type=int, help="Picture side in pixels. Default: the checkpoint's.")
        parser.add_argument("--target", help="Also build TensorRT-RTX plans for this device, as rtx-4090.")
        parser.add_argument("--atol", type=float, help="Largest absolute difference to torch that may ship.")
        parser.add_argument("--samples", type=Path, help="Folder or JSONL of pictures (and texts) to verify on.")
        parser.add_argument("--revision", help="Revision of a Hub id.")
        parser.add_argument(
            "--accept-config",
            type=_names,
            help="Unknown fields of the checkpoint's config files to accept as having no effect, as a,b.",
        )
        parser.add_argument("--state-dict", help="Set of weights to take where there are several, as model_ema.")

    def run(self) -> None:
        """Export, and print the report; an `EdgeError` becomes one line and exit code 1."""
        from internvl_edge.commands.output.progress import shown_progress
        from internvl_edge.export.compile import export_bundle
        from internvl_edge.export.export_report import report_text
        from internvl_edge.export.run.options import ExportOptions
        from internvl_edge.runtime.errors import EdgeError

        given = {name: value for name, value in vars(self.args).items() if name != "func"}
        try:
            with shown_progress() as progress:
                report = export_bundle(ExportOptions(**given), progress)
        except EdgeError as error:
            raise SystemExit(f"Error: {error}") from error
        print(report_text(report))


def _names(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


REGISTER_COMMANDS = [(InternVLEdgeExportCommand, ExportCommand)]
