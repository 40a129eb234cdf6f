"""Sources of the noise of 8 bits, and the gain of second-order rounding: `python benchmarks/quant_rounding.py`.

SQNR of the demo's outputs in torch, on test pictures that calibration has not seen, with activations alone in 8 bits,
weights alone, and both; weights rounded to nearest, with bias correction, and by GPTQ (Frantar et al. 2023).
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch

from internvl_edge.calib.data.dataset import open_data
from internvl_edge.calib.formats import fake_quantize, sqnr_db
from internvl_edge.calib.quantize import fake_quantizers, make_recipe
from internvl_edge.calib.ranges.stored import open_ranges
from internvl_edge.calib.recipes.decide import Rules
from internvl_edge.calib.recipes.recipe import Factors, LinearWeights, Recipe
from internvl_edge.export.blockwise.model import BlockwiseModel
from internvl_edge.export.blockwise.quantized import quantized_sources, with_cached_values
from internvl_edge.export.blockwise.sources import fetch_from
from internvl_edge.export.blockwise.streamed import Change
from internvl_edge.export.blockwise.torch_outputs import torch_outputs
from internvl_edge.export.calibrate import CalibrateOptions, calibrate
from internvl_edge.export.check.graph_inputs import GraphInputs
from internvl_edge.export.checkpoint import Checkpoint, open_checkpoint
from internvl_edge.export.checkpoint.store.weight_sources import ComputedTensor, Source, whole
from internvl_edge.export.models.graphs import graph_rows
from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.inputs.pictures.preprocess import preprocess
from internvl_edge.runtime.numbers.formats import QUANTIZED, Format
from internvl_edge.runtime.progress import Silent

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "emoji"
OUTPUTS = {"vision": "image_embeds", "query": "query_embeds", "text": "text_embeds", "decoder": "logits"}
CALIBRATED, TESTED = 128, 64
DAMPING = 0.01
"""Share of the mean of the Hessian's diagonal that is added to it, the default of GPTQ."""

Sources = Mapping[str, Source]
Inputs = Mapping[str, Mapping[str, np.ndarray]]


class Model:
    """The demo in torch, graph by graph."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        assert checkpoint.tokenizer_file is not None
        self.config = checkpoint.config
        self.blockwise = BlockwiseModel(str(checkpoint.folder), checkpoint, checkpoint.config)
        self.sources: Sources = self.blockwise.sources
        self._tokenizer = Tokenizer(checkpoint.tokenizer_file)

    def run(self, graph: str, inputs: Inputs, sources: Sources, changed: Mapping[str, Change]) -> dict[str, np.ndarray]:
        """Return the outputs of `graph`."""
        return torch_outputs(graph, self.config, inputs[graph], fetch_from(sources), (), changed)

    def inputs(self, file: Path, count: int) -> Inputs:
        """Return the inputs of the graphs for `count` pictures and captions, as the fp32 graphs compute them."""
        data = open_data(file).subsample(count)
        pixels = preprocess([data.picture(row) for row in data.rows], self.config.pictures)
        captions = [row.texts[data.languages[i % len(data.languages)]][0] for i, row in enumerate(data.rows)]
        ids = self._tokenizer.encode_texts(captions)
        prompt = self._tokenizer.encode_prompt("English caption:")
        samples = GraphInputs(pixel_values=pixels, text_ids=ids, prompt_ids=prompt)
        found: dict[str, dict[str, np.ndarray]] = {}
        outputs: dict[str, dict[str, np.ndarray]] = {}
        rows = graph_rows(self.config)
        for graph in OUTPUTS:
            found[graph] = samples.of(
                rows[graph], rows[graph].input_shapes(self.config), outputs.get(rows[graph].fed_by or "", {})
            )
            outputs[graph] = self.run(graph, found, self.sources, {})
        return found


def hessians(model: Model, inputs: Inputs, recipe: Recipe, sources: Sources) -> dict[str, torch.Tensor]:
    """Return ``X^T X`` of the quantized input of every quantized linear, over all graphs, ``[C, C]`` in fp64."""
    found: dict[str, torch.Tensor] = {}

    def noting(path: str, change: Change) -> Change:
        def note(x: torch.Tensor) -> torch.Tensor:
            x = change(x)
            rows = x.flatten(0, -2).double()
            found[path] = found.get(path, 0) + rows.T @ rows
            return x

        return note

    for graph in OUTPUTS:
        changed = {path: noting(path, change) for path, change in fake_quantizers(recipe, graph).items()}
        model.run(graph, {graph: with_cached_values(recipe, inputs[graph])}, sources, changed)
    return found


def gptq(weight: torch.Tensor, hessian: torch.Tensor, scale: torch.Tensor, form: Format) -> torch.Tensor:
    """Return `weight` ``[out, C]`` rounded column by column, with the error of each moved to the columns after it."""
    weight, damped = weight.double().clone(), hessian.clone()
    dead = damped.diagonal() == 0
    damped[dead, dead] = 1.0
    damped += DAMPING * damped.diagonal().mean() * torch.eye(len(damped), dtype=torch.float64)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    for column in range(weight.shape[1]):
        rounded = fake_quantize(weight[:, column].float(), scale, form).double()
        error = (weight[:, column] - rounded) / inverse[column, column]
        weight[:, column] = rounded
        weight[:, column + 1 :] -= error[:, None] * inverse[column, column + 1 :]
    return weight.float()


def nearest(recipe: Recipe, sources: Sources) -> Sources:
    """Return the quantized weights without bias correction."""
    plain = {name: replace(factors, added=None) for name, factors in recipe.factors.items()}
    return quantized_sources(replace(recipe, factors=plain), sources)


def unrounded(recipe: Recipe, sources: Sources) -> Sources:
    """Return the weights with everything folded and nothing rounded."""
    plain = {name: replace(factors, added=None) for name, factors in recipe.factors.items()}
    return quantized_sources(replace(recipe, factors=plain, linears={}), sources)


def second_order(model: Model, inputs: Inputs, recipe: Recipe) -> Sources:
    """Return the quantized weights rounded by GPTQ."""
    found = dict(nearest(recipe, model.sources))
    for path, hessian in hessians(model, inputs, recipe, unrounded(recipe, model.sources)).items():
        linear: LinearWeights = recipe.linears[path]
        name = f"{path}.weight"
        weight = recipe.factors.get(name, Factors()).apply(whole(model.sources[name]))
        assert recipe.weights is not None
        rounded = gptq(weight, hessian, linear.scale[: len(weight)], recipe.weights)
        found[name] = ComputedTensor(name=name, value=rounded)
    return found


def measured(model: Model, precision: str, ranges: Path) -> dict[str, dict[str, float]]:
    """Return variant -> graph -> SQNR in dB."""
    recipe = make_recipe(
        model.blockwise,
        open_ranges(ranges),
        Rules(precision=QUANTIZED[precision], dtype="float32"),
        {},
        Silent(),
    )
    calibration = model.inputs(EXAMPLE / "data" / "calibration.jsonl", CALIBRATED)
    test = model.inputs(EXAMPLE / "data" / "test.jsonl", TESTED)
    weights = {
        "nearest": nearest(recipe, model.sources),
        "nearest, bias correction": quantized_sources(recipe, model.sources),
        "GPTQ": second_order(model, calibration, recipe),
    }
    variants: dict[str, tuple[Sources, bool]] = {"activations alone": (unrounded(recipe, model.sources), True)}
    variants |= {f"weights alone, {name}": (sources, False) for name, sources in weights.items()}
    variants |= {f"both, {name}": (sources, True) for name, sources in weights.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in variants}
    for graph, output in OUTPUTS.items():
        reference = torch.from_numpy(model.run(graph, test, model.sources, {})[output])
        fed = {graph: with_cached_values(recipe, test[graph])}
        quantizers = fake_quantizers(recipe, graph)
        for name, (sources, activations) in variants.items():
            values = model.run(graph, fed, sources, quantizers if activations else {})[output]
            found[name][graph] = sqnr_db(reference, torch.from_numpy(values))
    return found


@click.command()
@click.option("--precision", type=click.Choice(sorted(QUANTIZED)), default="int8", show_default=True)
def main(precision: str) -> None:
    """Print a Markdown table of the SQNR of the demo's outputs for each part that is quantized."""
    checkpoint = EXAMPLE / "checkpoint"
    with tempfile.TemporaryDirectory() as folder:
        ranges = Path(folder) / "ranges"
        data = str(EXAMPLE / "data" / "calibration.jsonl")
        calibrate(
            CalibrateOptions(checkpoint=str(checkpoint), output=ranges, data=data, sample_count=CALIBRATED), Silent()
        )
        found = measured(Model(open_checkpoint(checkpoint)), precision, ranges)
    click.echo(f"| {precision}, SQNR in dB | {' | '.join(OUTPUTS.values())} |\n| --- |{' ---: |' * len(OUTPUTS)}")
    for name, levels in found.items():
        click.echo(f"| {name} | {' | '.join(f'{levels[graph]:.1f}' for graph in OUTPUTS)} |")


if __name__ == "__main__":
    main()
