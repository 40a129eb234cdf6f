"""`inspect`: show what a bundle or a TensorRT plan holds."""

from pathlib import Path

import click

from internvl_edge.commands.options.numbers import BATCH, LENGTH
from internvl_edge.commands.options.shared import JSON, target
from internvl_edge.commands.options.value_types import GivenPath, Shape
from internvl_edge.commands.output.printing import show, show_json


@click.command()
@click.argument("bundle", type=GivenPath(), required=False)
@click.option(
    "--batch",
    type=BATCH,
    default=1,
    show_default=True,
    help="Number of pictures and texts for which FLOPs are counted.",
)
@click.option(
    "--length",
    type=LENGTH,
    default=80,
    show_default=True,
    help="Number of tokens in a text for which FLOPs are counted.",
)
@click.option("--engine", type=GivenPath(), help="TensorRT-RTX plan to look into, instead of a bundle.")
@click.option("--diff", type=GivenPath(), help="With --engine: another plan to compare it with.")
@target("With --engine: device for which times are predicted", "the device of the plan")
@click.option(
    "--shape",
    "shapes",
    type=Shape(),
    multiple=True,
    help="With --engine: shape of an input, as pixel_values=1x3x224x224; repeat for each input.",
)
@click.option("--html", type=GivenPath(), help="With --engine: file for a page that opens offline.")
@JSON
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

    For a plan, the launches of every block are shown: which operators each fuses, how many bytes it reads and writes,
    and its predicted time in ms.

    \b
    internvl-edge inspect bundle
    internvl-edge inspect --engine bundle/engines/rtx-4090/vision.plan --html vision.html
    internvl-edge inspect --engine fp16/engines/l4/vision.plan --diff int8/engines/l4/vision.plan
    """
    if (bundle is None) == (engine is None):
        raise click.UsageError("give either BUNDLE or --engine PLAN")
    of_plans = {"--diff": diff, "--target": target, "--shape": shapes, "--html": html}
    if engine is None and (lonely := [name for name, value in of_plans.items() if value]):
        raise click.UsageError(f"{', '.join(lonely)}: for plans only; give --engine PLAN")
    if engine is not None:
        _inspect_engine(engine, diff, target, dict(shapes), html, as_json=as_json)
    elif bundle is not None:
        from internvl_edge.runtime.inspect.graph_stats import inspect_bundle, stats_text, to_json

        stats = inspect_bundle(bundle, {"batch": batch, "texts": batch, "length": length})
        show_json(to_json(stats)) if as_json else show(stats_text(stats))


def _inspect_engine(
    plan: Path,
    other: Path | None,
    target: str | None,
    shapes: dict[str, tuple[int, ...]],
    html: Path | None,
    *,
    as_json: bool,
) -> None:
    from internvl_edge.runtime.inspect.xray.diff import diff_text
    from internvl_edge.runtime.inspect.xray.target_of import target_of
    from internvl_edge.runtime.inspect.xray.text import xray_text
    from internvl_edge.runtime.inspect.xray.xray_page import render_page
    from internvl_edge.runtime.inspect.xray.xray_report import xray, xray_json
    from internvl_edge.runtime.outputs.files import require_apart, require_writable, takes_stdout, write_text

    files = [html] if html is not None else []
    require_writable(files)
    require_apart(files, [path for path in (plan, other) if path is not None])
    found = xray(plan, target=target_of(plan, target), sizes=shapes or None)
    for file in files:
        write_text(file, render_page({plan.name: found}))
    against = xray(other, target=target_of(other, target), sizes=shapes or None) if other is not None else None
    if as_json:
        show_json(xray_json(found) if against is None else {"a": xray_json(found), "b": xray_json(against)})
    else:
        show(xray_text(found) if against is None else diff_text(found, against), to_stderr=takes_stdout(files))
