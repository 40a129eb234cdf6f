"""The `internvl-edge` command: parse, one call, print."""

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from internvl_edge.runtime.errors import EdgeError

if TYPE_CHECKING:
    from internvl_edge.runtime.model import Mode


class _Group(click.Group):
    """Turns an `EdgeError` into one line and exit code 1; anything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(1)


class _Names(click.ParamType[tuple[str, ...]]):
    """A comma-separated list, as `vision,text`."""

    name = "NAME[,NAME...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return (
            value if isinstance(value, tuple) else tuple(part.strip() for part in str(value).split(",") if part.strip())
        )


class _Integers(_Names):
    """A comma-separated list of integers, as `11,23,35,47`."""

    name = "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:  # type: ignore[override]
        try:
            return tuple(int(part) for part in super().convert(value, param, ctx))
        except ValueError:
            self.fail(f"{value!r} is not a list of integers", param, ctx)


class _Shape(click.ParamType[tuple[str, tuple[int, ...]]]):
    """An input and its shape, as `pixel_values=1x3x224x224`."""

    name = "NAME=DIMS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        name, _, dims = str(value).rpartition("=")
        try:
            return name, tuple(int(dim) for dim in dims.split("x"))
        except ValueError:
            self.fail(f"{value!r} is not NAME=1x3x224x224", param, ctx)


_BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
_IMAGES = click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
_BACKEND = click.option("--backend", default="auto", show_default=True, help="Library that runs the graphs.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="internvl-edge")
@click.option("-v", "--verbose", is_flag=True, help="Log what each stage does.")
def main(verbose: bool) -> None:
    """Compile InternVL checkpoints for edge and data-center GPUs, and run what came out.

    \b
    internvl-edge export CHECKPOINT -o BUNDLE      checkpoint to verified ONNX graphs (and plans)
    internvl-edge export CHECKPOINT -o BUNDLE --precision int8 --data PICTURES
    internvl-edge eval BUNDLE --data JSONL         what it is worth, and what it lost against another bundle
    internvl-edge compare BUNDLE CHECKPOINT --data PICTURES    after which block they part
    internvl-edge build BUNDLE --target rtx-4090   plans, or a kit for a device that builds its own
    internvl-edge run retrieve BUNDLE IMAGES -t "a red kite"
    internvl-edge inspect BUNDLE                   what is inside
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


@main.command()
@click.argument("checkpoint")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Bundle folder to write.")
@click.option("--graphs", type=_Names(), help="Graphs to write; default: all that the checkpoint has weights for.")
@click.option(
    "--dtype",
    "--high_precision_dtype",
    "dtype",
    type=click.Choice(["fp32", "fp16", "bf16"]),
    default="fp16",
    show_default=True,
    help="Type of weights and activations.",
)
@click.option(
    "--weights",
    type=click.Choice(["link", "copy"]),
    default="link",
    show_default=True,
    help="Refer to the checkpoint's own files where the type fits, or write all weights anew.",
)
@click.option(
    "--image-size", type=int, help="Picture side in pixels; interpolates the position table. Default: the checkpoint's."
)
@click.option(
    "--feature-layers",
    type=_Integers(),
    default=(),
    help="Blocks whose patch maps `vision` also puts out, as 11,23,35,47.",
)
@click.option("--target", help="Also build plans for this device, as rtx-4090 or sm_89; see `targets` and `build`.")
@click.option(
    "--atol", type=float, help="Largest absolute difference to torch that may ship. Default: relative, per dtype."
)
@click.option(
    "--samples",
    type=click.Path(exists=True, path_type=Path),
    help="Folder or JSONL of real pictures (and texts) to verify on.",
)
@click.option("--sample-count", type=int, default=2, show_default=True, help="How many of them.")
@click.option("--revision", help="Revision of a Hub id.")
@click.option(
    "--precision",
    "--quantize_mode",
    "precision",
    type=click.Choice(["int8", "fp8"]),
    help="Quantize the linears to 8 bits, with Q/DQ in the graph; needs --data or --ranges.",
)
@click.option(
    "--data", help="Pictures (and captions) to calibrate and judge on: a folder, a JSONL, or the word random."
)
@click.option("--calibration-samples", type=int, default=128, show_default=True, help="How many to calibrate on.")
@click.option("--ranges", type=click.Path(path_type=Path), help="What `calibrate` wrote, instead of measuring now.")
@click.option("--method", "--calibration_method", "method", help="Clip by auto, max, percentile, entropy or mse.")
@click.option("--smooth", default="auto", show_default=True, help="auto, off, or SmoothQuant's alpha from 0 to 1.")
@click.option(
    "--keep-high",
    "--nodes_to_exclude",
    "keep_high",
    multiple=True,
    help="Linears that stay in --dtype: a name or a glob; repeat for more.",
)
@click.option("--fp8-attention", is_flag=True, help="With fp8: quantize attention's products as well.")
@click.option(
    "--max-drop", type=float, default=0.5, show_default=True, help="Points of accuracy that may be lost on --data."
)
@click.option("--budget-layers", type=int, help="Most sites to keep high to stay within --max-drop. Default: any.")
@click.option(
    "--gate-samples", type=int, default=64, show_default=True, help="Pictures to judge the drop on; 0: do not."
)
def export(**options: Any) -> None:
    """Write CHECKPOINT (a folder, a .pth file or a Hub id) as a bundle of verified ONNX graphs.

    Every graph is run on ONNX Runtime against the torch module before the bundle appears; a killed export leaves no
    half bundle, and the next run takes up what it had finished.

    \b
    internvl-edge export OpenGVLab/InternVL-14B-224px -o bundle
    internvl-edge export InternViT-300M-448px -o bundle --dtype bf16 --image-size 336
    internvl-edge export examples/emoji/checkpoint -o bundle --target rtx-4090 --samples examples/emoji/data/test.jsonl
    internvl-edge export CHECKPOINT -o bundle --precision int8 --data examples/emoji/data/calibration.jsonl
    """
    from internvl_edge.export.compile import export_bundle
    from internvl_edge.export.options import ExportOptions
    from internvl_edge.export.report import report_text
    from internvl_edge.progress import RichProgress

    with RichProgress() as progress:
        report = export_bundle(ExportOptions(**options), progress)
    click.echo(report_text(report))


@main.command()
@click.argument("checkpoint")
@click.option("--data", help="Pictures (and captions): a folder, a JSONL, or the word random.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of ranges to write.")
@click.option("--samples", type=int, default=128, show_default=True, help="How many pictures of the data to take.")
@click.option(
    "--method",
    "--calibration_method",
    "method",
    default="auto",
    show_default=True,
    help="Rule for clips that export follows: auto, max, percentile, entropy or mse.",
)
@click.option("--graphs", type=_Names(), help="Graphs to measure; default: all that the checkpoint has weights for.")
@click.option("--image-size", type=int, help="Picture side in pixels. Default: the checkpoint's.")
@click.option("--compute", default="auto", show_default=True, help="Matrix products in auto, fp32 or bf16.")
@click.option(
    "--merge", type=click.Path(path_type=Path), multiple=True, help="Ranges of one part of the data; repeat for each."
)
@click.option("--revision", help="Revision of a Hub id.")
def calibrate(**options: Any) -> None:
    """Measure the ranges of CHECKPOINT on pictures and captions, block by block, for `export --ranges`.

    One block's weights are in memory at a time; a killed run goes on where it was. Shards of a large data set are
    measured apart and merged.

    \b
    internvl-edge calibrate CHECKPOINT --data pictures/ -o ranges
    internvl-edge calibrate CHECKPOINT --data coco.jsonl -o ranges --samples 512
    internvl-edge calibrate CHECKPOINT --merge ranges-a --merge ranges-b -o ranges
    """
    from internvl_edge.export.calibrate import CalibrateOptions
    from internvl_edge.export.calibrate import calibrate as measure
    from internvl_edge.export.report import ranges_text
    from internvl_edge.progress import RichProgress

    with RichProgress() as progress:
        report = measure(CalibrateOptions(**options), progress)
    click.echo(ranges_text(report))


@main.command("eval")
@_BUNDLE
@click.option("--data", type=click.Path(path_type=Path), required=True, help="JSONL of pictures with captions.")
@click.option("--baseline", type=click.Path(path_type=Path), help="Bundle to compare with.")
@click.option("--limit", type=click.IntRange(1), help="Pictures to take, evenly spread. Default: all.")
@click.option("--languages", type=_Names(), help="Languages to measure, as en,zh. Default: all of the data.")
@click.option("--tasks", type=_Names(), help="Of retrieval,zero_shot,captions. Default: all.")
@_BACKEND
@_JSON
def evaluate(bundle: Path, data: Path, baseline: Path | None, as_json: bool, **settings: Any) -> None:
    """Measure BUNDLE on labelled pictures: recall per language, zero-shot accuracy, captions, distance to a baseline.

    \b
    internvl-edge eval bundle --data examples/emoji/data/test.jsonl
    internvl-edge eval bundle-int8 --data examples/emoji/data/test.jsonl --baseline bundle --limit 400
    """
    from internvl_edge.calib.evaluate import EvalOptions, evaluate_bundle, evaluation_text
    from internvl_edge.progress import RichProgress

    options = EvalOptions(**{name: value for name, value in settings.items() if value is not None})
    with RichProgress() as progress:
        found = evaluate_bundle(bundle, data, options, baseline, progress)
    text = evaluation_text(found.report, found.baseline, found.cosines)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else text)


@main.command()
@_BUNDLE
@click.argument("reference", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="A folder of pictures, or a JSONL.")
@click.option("--samples", type=int, default=4, show_default=True, help="Pictures to take, evenly spread.")
@click.option("--graphs", type=_Names(), help="Graphs to compare; default: all of BUNDLE.")
@click.option("--threshold-db", type=float, default=20.0, show_default=True, help="SQNR below which a block diverges.")
@_JSON
def compare(bundle: Path, reference: Path, as_json: bool, **settings: Any) -> None:
    """Show after which block BUNDLE leaves REFERENCE, another bundle or the checkpoint: cosine, SQNR, largest error.

    Each graph gets the reference's inputs, so each is judged alone; the last line says where the first divergence is
    and what keeps it high. The checkpoint runs in torch, fp32, one block's weights in memory at a time.

    \b
    internvl-edge compare bundle-int8 bundle --data pictures/
    internvl-edge compare bundle-int8 examples/emoji/checkpoint --data examples/emoji/data/test.jsonl --graphs vision
    """
    from internvl_edge.export.compare import CompareOptions
    from internvl_edge.export.compare import compare as against
    from internvl_edge.export.compare_report import comparison_json, comparison_text
    from internvl_edge.progress import RichProgress

    with RichProgress() as progress:
        found = against(bundle, reference, CompareOptions(**settings), progress)
    click.echo(json.dumps(comparison_json(found), indent=2) if as_json else comparison_text(found))


@main.command("build")
@_BUNDLE
@click.option("--target", help="Device, as agx-orin-64gb, l4, rtx-4090, or sm_89; not needed for a kit.")
@click.option("--graphs", type=_Names(), help="Graphs to build; default: all of BUNDLE.")
@click.option("--batch", default="1:1:8", show_default=True, help="Pictures or texts in one call, min:opt:max.")
@click.option("--text-length", default="1:16:80", show_default=True, help="Tokens of a text, min:opt:max.")
@click.option("--max-host-mem", help="Memory that a build may take, as 12GiB: larger graphs are cut into parts.")
@click.option("--max-device-mem", help="Memory that one plan's weights may take on the device, as 8GiB.")
@click.option("--attention", default="auto", show_default=True, help="How attention is written: auto, op or pattern.")
@click.option("--search-forms", is_flag=True, help="Try every form of a few blocks and build in the leanest.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of a kit. Default: BUNDLE-TARGET.")
@click.option("--trtexec", is_flag=True, help="Print the trtexec commands of a kit, too.")
def build_command(bundle: Path, trtexec: bool, **settings: Any) -> None:
    """Build the TensorRT plans of BUNDLE for a device, or make a kit that the device builds from.

    TensorRT-RTX builds for SM 75, 80, 86, 89, 120 and 121 on any machine; for Jetson and Hopper a kit is written, and
    the same command on the device turns it into plans. What is there and current is kept.

    \b
    internvl-edge build bundle --target rtx-4090
    internvl-edge build bundle --target l4 --batch 1:8:32 --max-host-mem 6GiB
    internvl-edge build bundle --target agx-orin-64gb -o orin-kit     then, on the Orin:  internvl-edge build orin-kit
    """
    from internvl_edge.export.build import build, build_options
    from internvl_edge.export.build_report import build_text, trtexec_text
    from internvl_edge.progress import RichProgress

    options = build_options(**settings)
    with RichProgress() as progress:
        report = build(bundle, options, progress)
    click.echo(build_text(report))
    if trtexec:
        click.echo(trtexec_text(report))


@main.command()
@_JSON
def targets(as_json: bool) -> None:
    """List the devices that plans can be built for: memory, 8-bit formats, which TensorRT, buildable here or not."""
    from internvl_edge.export.engine.targets_table import targets_json, targets_text

    click.echo(json.dumps(targets_json(), indent=2) if as_json else targets_text())


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--target", help="Device to check BUNDLE for, as agx-orin-64gb or l4.")
@_JSON
def doctor(bundle: Path | None, target: str | None, as_json: bool) -> None:
    """Show what is installed and what GPU is here; for BUNDLE, what plans will take and what blocks them.

    \b
    internvl-edge doctor
    internvl-edge doctor bundle --target orin-nano-8gb
    """
    from internvl_edge.export.doctor import diagnose, diagnosis_text

    found = diagnose(bundle, target)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else diagnosis_text(found))


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--batch", type=int, default=1, show_default=True, help="Pictures and texts that FLOPs are counted for.")
@click.option("--length", type=int, default=80, show_default=True, help="Text length that FLOPs are counted for.")
@click.option(
    "--engine", type=click.Path(path_type=Path), help="A TensorRT-RTX plan to look into, instead of a bundle."
)
@click.option("--diff", type=click.Path(path_type=Path), help="With --engine: another plan to compare it with.")
@click.option("--target", help="With --engine: the device to predict for; default: that of the plan.")
@click.option(
    "--shape", "shapes", type=_Shape(), multiple=True, help="With --engine: an input's shape, as x=1x3x224x224."
)
@click.option("--html", type=click.Path(path_type=Path), help="With --engine: also write one offline page.")
@_JSON
def inspect(
    bundle: Path | None,
    batch: int,
    length: int,
    engine: Path | None,
    diff: Path | None,
    target: str | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    html: Path | None,
    as_json: bool,
) -> None:
    """Show the graphs of BUNDLE: shapes, operators, parameters, bytes and FLOPs; or look into a plan without a GPU.

    Of a plan: launches of every block and what they fuse, bytes each reads and writes, and predicted milliseconds.

    \b
    internvl-edge inspect bundle
    internvl-edge inspect --engine bundle/engines/rtx-4090/vision.plan --html bundle/reports/engine.html
    internvl-edge inspect --engine fp16/engines/l4/vision.plan --diff int8/engines/l4/vision.plan
    """
    if (bundle is None) == (engine is None):
        raise click.UsageError("give either BUNDLE or --engine PLAN")
    if engine is not None:
        _inspect_engine(engine, diff, target, dict(shapes), html, as_json=as_json)
    elif bundle is not None:
        from internvl_edge.export.graph_stats import inspect_bundle, stats_text, to_json

        stats = inspect_bundle(bundle, {"batch": batch, "texts": batch, "length": length})
        click.echo(json.dumps(to_json(stats), indent=2) if as_json else stats_text(stats))


def _inspect_engine(
    plan: Path,
    other: Path | None,
    target: str | None,
    shapes: dict[str, tuple[int, ...]],
    html: Path | None,
    *,
    as_json: bool,
) -> None:
    from internvl_edge.export.xray.diff import diff_text
    from internvl_edge.export.xray.page import render_page
    from internvl_edge.export.xray.report import xray, xray_json
    from internvl_edge.export.xray.target_of import target_of
    from internvl_edge.export.xray.text import xray_text

    found = xray(plan, target=target_of(plan, target), sizes=shapes or None)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(render_page(found), encoding="utf-8")
    if other is not None:
        click.echo(diff_text(found, xray(other, target=target_of(other, target), sizes=shapes or None)))
    else:
        click.echo(xray_json(found) if as_json else xray_text(found))


@main.group()
def run() -> None:
    """Run a task on a bundle: classify, retrieve, caption or embed."""


@run.command()
@_BUNDLE
@_IMAGES
@click.option("-l", "--label", "labels", multiple=True, required=True, help="A class name; repeat for each class.")
@click.option("--template", "templates", multiple=True, help="Text around a class name, as 'a photo of {}'.")
@_BACKEND
@_JSON
def classify(
    bundle: Path,
    images: tuple[Path, ...],
    labels: tuple[str, ...],
    templates: tuple[str, ...],
    backend: str,
    as_json: bool,
) -> None:
    """Classify IMAGES among the labels, without training."""
    from internvl_edge.runtime import InternVL
    from internvl_edge.runtime.tables import ranking_text

    probabilities = InternVL.open(bundle, backend=backend).classify(images, labels, templates=templates or None)
    click.echo(ranking_text(images, labels, probabilities, as_json=as_json))


@run.command()
@_BUNDLE
@_IMAGES
@click.option("-t", "--text", "texts", multiple=True, required=True, help="A text; repeat for each text.")
@click.option(
    "--mode",
    type=click.Choice(["c", "g"]),
    default="g",
    show_default=True,
    help="InternVL-C or InternVL-G picture features.",
)
@_BACKEND
@_JSON
def retrieve(
    bundle: Path, images: tuple[Path, ...], texts: tuple[str, ...], mode: "Mode", backend: str, as_json: bool
) -> None:
    """Rank the texts for each of IMAGES by similarity."""
    from internvl_edge.runtime import InternVL
    from internvl_edge.runtime.tables import ranking_text

    logits = InternVL.open(bundle, backend=backend).similarity(images, texts, mode=mode)
    click.echo(ranking_text(images, texts, logits, as_json=as_json))


@run.command()
@_BUNDLE
@_IMAGES
@click.option("--prompt", default="English caption:", show_default=True)
@click.option("--num-beams", type=click.IntRange(1), default=1, show_default=True)
@click.option("--min-new-tokens", type=click.IntRange(0), default=0, show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(1), default=30, show_default=True)
@_BACKEND
@_JSON
def caption(bundle: Path, images: tuple[Path, ...], backend: str, as_json: bool, **settings: Any) -> None:
    """Write a caption for each of IMAGES."""
    from internvl_edge.runtime import InternVL
    from internvl_edge.runtime.tables import lines_text

    captions = InternVL.open(bundle, backend=backend).caption(images, **settings)
    click.echo(lines_text(images, captions, as_json=as_json))


@run.command()
@_BUNDLE
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("-t", "--text", "texts", multiple=True, help="A text to embed; repeat for each text.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="NumPy .npz to write.")
@click.option(
    "--mode",
    type=click.Choice(["c", "g"]),
    default="g",
    show_default=True,
    help="InternVL-C or InternVL-G picture features.",
)
@_BACKEND
def embed(
    bundle: Path, images: tuple[Path, ...], texts: tuple[str, ...], output: Path, mode: "Mode", backend: str
) -> None:
    """Write the raw features of IMAGES and texts to an .npz with `images`, `image_embeds`, `texts`, `text_embeds`."""
    from internvl_edge.runtime import InternVL
    from internvl_edge.runtime.tables import save_embeddings

    saved = save_embeddings(InternVL.open(bundle, backend=backend), images, texts, mode, output)
    click.echo(saved)


if __name__ == "__main__":
    sys.exit(main())
