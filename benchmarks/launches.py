"""Kernel launches and bytes of one block, our best form against plain exports: `python benchmarks/launches.py FOLDER`.

Plans for sm_89 are built on the CPU and read; nothing runs on a GPU.
ModelOpt, in an environment of its own (1.4 GB, made once), calibrates by running the graph: 15 GB and minutes for three
layers of QLLaMA. So it gets the blocks at narrow width and one random batch, and its Q/DQ graph is widened.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir
from blocks import CASES, FP8_ATTENTION, Case, attach_stand_ins, canonical, config_of, traced
from export_scale import machine
from model_optimizer import MODELOPT, modelopt_python
from qdq_products import quantized_products
from steps import StepError, step
from widen import full_widths, widen

from internvl_edge.export.dialects import Dialect
from internvl_edge.export.dialects.cut_blocks import Shapes, axes_profile
from internvl_edge.export.engine.builder import build_plan
from internvl_edge.export.plans.forms import Form, block_cost, cheapest_form, search_forms
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.inspect.plan.launches import launches_of
from internvl_edge.runtime.inspect.plan.schedule import read_plan
from internvl_edge.runtime.targets.targets import find_target

TARGET = "sm_89"
PLAIN_OPSETS = (17, 20, 23)
MODELOPT_OPSET = 20
"""Opset of the plain export that ModelOpt quantizes."""
MODELOPT_PRECISIONS = ("int8", "fp8")
GRAPH = "plain.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    launches: int | None
    bytes: int | None
    remark: str


def plain_row(case: Case, opset: int, folder: Path) -> Row:
    """Build a plain export and count its block."""
    model = plain_model(case, opset, folder)
    found = model.opset_imports[""]
    remark = "" if found == opset else f"as opset {found}, the oldest that torch writes"
    return counted_row(f"{case.title}: plain, opset {opset}", case, model, folder, remark)


def modelopt_row(case: Case, precision: str, folder: Path, environment: Path) -> Row:
    """Let ModelOpt quantize a plain export, build the result and count its block."""
    what = f"{case.title}: ModelOpt Q/DQ, {precision}"
    try:
        model = modelopt_model(case, precision, folder, environment)
    except (StepError, OSError, subprocess.CalledProcessError) as error:
        return Row(what=what, launches=None, bytes=None, remark=_one_line(error))
    quantized, products = quantized_products(folder / GRAPH)
    return counted_row(what, case, model, folder, f"{quantized} of the graph's {products} products in 8 bits")


def modelopt_model(case: Case, precision: str, folder: Path, environment: Path) -> ir.Model:
    """Return ModelOpt's Q/DQ graph of a plain export, written to `folder` with stand-in weights.

    Raises:
        StepError: ModelOpt cannot be installed, or fails.
    """
    small, inputs, log = replace(case, narrow=True), folder / "inputs", folder / "modelopt.log"
    write_inputs(small, plain_model(small, MODELOPT_OPSET, folder), inputs)
    given = (folder / GRAPH, inputs, precision, "max", "fp16")
    step("model_optimizer.modelopt_graph", *given, log=log, python=str(modelopt_python(environment, log)))
    model = ir.load(folder / GRAPH)
    widen(model, full_widths(config_of(small), config_of(case)))
    attach_stand_ins(model, folder)
    ir.save(model, folder / GRAPH)
    return model


def plain_model(case: Case, opset: int, folder: Path) -> ir.Model:
    """Return a plain export, written to `folder` with stand-in weights."""
    model = traced(case, opset, plain=True)
    attach_stand_ins(model, folder)
    ir.save(model, folder / GRAPH)
    return model


def counted_row(what: str, case: Case, model: ir.Model, folder: Path, remark: str) -> Row:
    """Build the graph in `folder`, which has the inputs of `model`, and count its block."""
    profiles, plan = _profiles(case, model), folder / "plain.plan"
    try:
        build_plan(folder / GRAPH, plan, target=find_target(TARGET), profiles=profiles)
        cost = block_cost(plan, case.block, profiles)[0]
    except EngineError as error:
        return Row(what=what, launches=None, bytes=None, remark=_one_line(error))
    unnamed = unnamed_launches(plan, case.block)
    remarks = [remark, f"not counted: {unnamed} inside that name no block" if unnamed else ""]
    return Row(what=what, launches=cost.launches, bytes=cost.bytes, remark="; ".join(filter(None, remarks)))


def unnamed_launches(plan: Path, block: str) -> int:
    """Return the number of launches that belong to no block, between the first and the last of `block`.

    Nodes that ModelOpt adds are named by tensors, so a kernel that only quantizes names none; nor does one that
    TensorRT adds to change a layout.
    """
    blocks = [launch.block for launch in launches_of(read_plan(plan).schedules[0])]
    last = len(blocks) - blocks[::-1].index(block)
    return blocks[blocks.index(block) : last].count("")


def write_inputs(case: Case, model: ir.Model, folder: Path) -> None:
    """Write one random batch for calibration, in the shapes that plans are tuned for; positions are 0."""
    rng, shapes = np.random.default_rng(0), _profiles(case, model)[0]
    batch: dict[str, np.ndarray] = {}
    for value in model.graph.inputs:
        assert value.dtype is not None
        name, usual = str(value.name), shapes[str(value.name)][1]
        numbers = rng.standard_normal(usual) if value.dtype.is_floating_point() else np.zeros(usual)
        batch[name] = numbers.astype(value.dtype.numpy())
    folder.mkdir(exist_ok=True)
    np.savez(folder / "0000.npz", allow_pickle=True, **batch)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def best_form(case: Case, precision: str, folder: Path, most_launches: int | None) -> Form:
    """Return the form of the canonical graph with the fewest bytes among those with few enough launches."""
    model = canonical(case, precision)
    attach_stand_ins(model, folder)
    profiles = _profiles(case, model)
    forms = search_forms(model, case.block, folder, target=find_target(TARGET), profiles=profiles)
    return cheapest_form(forms, most_launches)


def _profiles(case: Case, model: ir.Model) -> list[Mapping[str, Shapes]]:
    return [axes_profile(model, case.ranges)]


def rows_of(case: Case, folder: Path, environment: Path) -> Iterator[Row]:
    """Yield the plain exports, then ModelOpt's graphs, then ours in every precision, compared with them."""
    plain = [plain_row(case, opset, folder) for opset in PLAIN_OPSETS]
    yield from plain
    modelopt = {precision: modelopt_row(case, precision, folder, environment) for precision in MODELOPT_PRECISIONS}
    yield from modelopt.values()
    for precision in case.precisions:
        form = best_form(case, precision, folder, most_launches(case, precision, plain))
        comparisons = [comparison(case, precision, form, "plain", plain)]
        if (other := counterpart(case, precision)) is not None:
            comparisons.append(comparison(case, precision, form, "ModelOpt", [modelopt[other]]))
        yield Row(
            what=f"{case.title}: ours, {precision}",
            launches=form.launches,
            bytes=form.bytes,
            remark="; ".join([*comparisons, form_text(form)]),
        )


def counterpart(case: Case, precision: str) -> str | None:
    """Return the precision of ModelOpt that corresponds: its FP8 has the products of attention in 8 bits."""
    if precision == "fp8" and FP8_ATTENTION in case.precisions:
        return None
    return "fp8" if precision == FP8_ATTENTION else precision if precision in MODELOPT_PRECISIONS else None


def most_launches(case: Case, precision: str, others: Sequence[Row]) -> int:
    """Return the bound of `case`, or the fewest launches among `others` if it has none."""
    return case.wanted.get(precision, min((row.launches for row in others if row.launches is not None), default=0))


def comparison(case: Case, precision: str, form: Form, title: str, others: Sequence[Row]) -> str:
    """Return a text with the goal against the rows `others`, and whether it is reached.

    A case with bounds of its own needs fewer bytes; for other cases, fewer launches with no more bytes suffice.
    """
    launches = [row.launches for row in others if row.launches is not None]
    moved = [row.bytes for row in others if row.bytes is not None]
    if not launches or not moved:
        return f"no figures of {title}"
    most, strict = most_launches(case, precision, others), bool(case.wanted)
    bound = min(moved) if strict or form.launches >= min(launches) else min(moved) + 1
    reached = form.launches <= most and form.bytes is not None and form.bytes < bound
    wanted = f"{'fewer bytes' if strict else 'better'} than {title}"
    return f"<= {most} launches, {wanted}: {'reached' if reached else 'MISSED'}"


def form_text(form: Form) -> str:
    """Return a text with the form of attention and the settings that differ from its defaults."""
    dialect = form.dialect
    standard = asdict(Dialect(attention=dialect.attention))
    differing = (f"{field} {value}" for field, value in asdict(dialect).items() if value != standard[field])
    return ", ".join([f"attention {dialect.attention}", *differing])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), help="Default: all.")
@click.option("--environment", type=click.Path(path_type=Path), help="ModelOpt's; default: FOLDER/modelopt.")
def main(folder: Path, cases: tuple[str, ...], environment: Path | None) -> None:
    """Count launches and bytes below FOLDER and print a Markdown table."""
    click.echo(f"{machine()}; plans for {TARGET}; ModelOpt: {' '.join(MODELOPT)}\n")
    click.echo("| what | launches of the block | MB moved | remark |\n| --- | ---: | ---: | --- |")
    for name in cases or CASES:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for row in rows_of(CASES[name], place, environment or folder / "modelopt"):
            moved = f"{row.bytes / 1e6:.1f}" if row.bytes is not None else ""
            click.echo(f"| {row.what} | {row.launches or ''} | {moved} | {row.remark} |")
            sys.stdout.flush()
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
