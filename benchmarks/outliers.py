"""Write copies of a small checkpoint with activation outliers: `outliers.py CHECKPOINT OUTPUT`.

``folded`` scales random channels across exact fold pairs: the function stays the same, and the ranges become large.
``massive`` adds what published ViTs and LLMs have (Sun et al. 2024, "Massive Activations in Large Language Models"): at
one token without meaning, two channels of the residual stream are 1000 in every block, and act as a bias of attention.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from internvl_edge.calib.data.dataset import open_data
from internvl_edge.calib.sites import NormFold, RowFold, Site
from internvl_edge.export.blockwise.sources import fetch_from, weight_sources
from internvl_edge.export.blockwise.streamed import Change
from internvl_edge.export.blockwise.torch_outputs import torch_outputs
from internvl_edge.export.checkpoint import Checkpoint, open_checkpoint
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.families.internvit import VISION_BLOCK
from internvl_edge.export.models.sites import model_sites
from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.inputs.pictures.preprocess import preprocess

SHARE = 0.04
"""Number of channels that are scaled at each fold pair."""
MASSIVE = 1000.0
"""Value of an outlier channel in the residual stream, whose median magnitude is about 2 in the demo."""
MASSIVE_CHANNELS = 2
NORM_RATIO = 300.0
"""Ratio of an outlier channel to the median channel after a norm."""
UNIT_OUTPUT = 40.0
"""Output of the hidden unit that removes the outlier channels at the end of the vision tower."""
TOKENS = {"vision": 1, "text": 0}
"""Graph -> index of its massive token: a corner of the picture, and bos."""

Tensors = dict[str, torch.Tensor]

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "emoji"
_BOS = 1
_WRITERS = (
    *("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
    *("self_attn.o_proj.weight", "cross_attn.o_proj.weight", "mlp.down_proj.weight"),
    *("patch_embedding.weight", "patch_embedding.bias"),
)
"""Parameters whose rows write to the residual stream."""
_VISION_TABLES = ("vision_model.embeddings.class_embedding", "vision_model.embeddings.position_embedding")
_TEXT_TABLES = ("query_tokens", "qllama.model.embed_tokens.weight")


def scale_folds(source: Path, target: Path, *, largest: float = 300.0, seed: int = 0) -> None:
    """Write a copy whose function is the same, with channels scaled by 10 to `largest` at every fold pair."""
    tensors = _load(source)
    rng = np.random.default_rng(seed)
    for site in model_sites(open_checkpoint(source).config):
        if site.fold is not None:
            factors = torch.ones(site.channels)
            chosen = rng.choice(site.channels, max(1, round(SHARE * site.channels)), replace=False)
            factors[chosen] = torch.from_numpy(np.exp(rng.uniform(np.log(10), np.log(largest), len(chosen)))).float()
            _scale_fold(tensors, site, factors)
    _save(source, target, tensors)


def plant_massive(source: Path, target: Path) -> None:
    """Write a copy with massive activations at one token of either tower; its function is near the original's.

    A norm makes of the massive token little more than the planted channels, which all other tokens leave at zero. So
    the weight columns of these channels reach the massive token alone, and give it there the keys, values and gates
    that it had in the original: on average in the vision tower, exactly in the text tower, where bos sees only itself.
    """
    tensors = _load(source)
    config = open_checkpoint(source).config
    sites = [site for site in model_sites(config) if isinstance(site.fold, NormFold)]
    observed = _norm_outputs(source, config, sites)
    planted: dict[str, torch.Tensor] = {}
    for graph, prefix in (("vision", "vision_model."), ("text", "qllama.model.layers")):
        own = {site: observed[graph, site.linears[0]] for site in sites if (graph, site.linears[0]) in observed}
        channels = planted[graph] = _least_used(own, tensors)
        _silence(tensors, prefix, channels)
        for site, rows in own.items():
            _let_through(tensors, site, channels, rows[:, TOKENS[graph]].mean(dim=0), _median(rows))
    _enter_and_leave(tensors, config, planted)
    _save(source, target, tensors)


def _least_used(own: Mapping[Site, torch.Tensor], tensors: Tensors) -> torch.Tensor:
    """Return the channels after the norms that have the smallest weights in the linears."""
    used = sum(
        rows.abs().mean(dim=(0, 1)) * tensors[weight].norm(dim=0)
        for site, rows in own.items()
        for weight in site.weights
    )
    return torch.topk(torch.as_tensor(used), MASSIVE_CHANNELS, largest=False).indices


def _scale_fold(tensors: Tensors, site: Site, factors: torch.Tensor) -> None:
    for name in site.weights:
        tensors[name] /= factors
    match site.fold:
        case NormFold(parameters=parameters):
            for name in parameters:
                tensors[name] *= factors
        case RowFold(weight=weight, start=start, bias=bias):
            tensors[weight][start : start + site.channels] *= factors[:, None]
            if bias is not None:
                tensors[bias][start : start + site.channels] *= factors


def _silence(tensors: Tensors, prefix: str, channels: torch.Tensor) -> None:
    """Set all weights to 0 that write to `channels` of the residual stream of a tower."""
    for name, value in tensors.items():
        if name.startswith(prefix) and name.endswith(_WRITERS):
            value[channels] = 0.0
    tables = _VISION_TABLES if prefix.startswith("vision") else _TEXT_TABLES
    for name in tables:
        tensors[name][..., channels] = 0.0


def _median(rows: torch.Tensor) -> float:
    """Return the median magnitude without zeros, which are padding."""
    return float(rows[rows != 0].abs().median())


def _let_through(tensors: Tensors, site: Site, channels: torch.Tensor, output: torch.Tensor, median: float) -> None:
    """Scale the outlier channels of the norm of `site` to `NORM_RATIO` medians, and keep the output of its linears."""
    assert isinstance(site.fold, NormFold)
    planted = NORM_RATIO * median
    (gain,) = site.fold.parameters
    tensors[gain][channels] = planted / (site.channels / MASSIVE_CHANNELS) ** 0.5
    for name in site.weights:
        wanted = tensors[name] @ output
        tensors[name][:, channels] = (wanted / (planted * MASSIVE_CHANNELS))[:, None]


def _enter_and_leave(tensors: Tensors, config: ModelConfig, channels: Mapping[str, torch.Tensor]) -> None:
    """Write the outlier channels into the tables, and remove them by a hidden unit of the last vision block."""
    tensors["qllama.model.embed_tokens.weight"][_BOS, channels["text"]] = MASSIVE
    planted = channels["vision"]
    tensors["vision_model.embeddings.position_embedding"][0, TOKENS["vision"], planted] = MASSIVE
    last = VISION_BLOCK.format(config.vision.num_layers - 1)
    gain = tensors[f"{last}.norm2.weight"][planted] * (config.vision.hidden_size / MASSIVE_CHANNELS) ** 0.5
    unit = int(tensors[f"{last}.mlp.fc2.weight"].norm(dim=0).argmin())
    tensors[f"{last}.mlp.fc1.weight"][unit] = 0.0
    tensors[f"{last}.mlp.fc1.weight"][unit, planted] = UNIT_OUTPUT / (gain * MASSIVE_CHANNELS)
    tensors[f"{last}.mlp.fc1.bias"][unit] = 0.0
    tensors[f"{last}.mlp.fc2.weight"][:, unit] = 0.0
    tensors[f"{last}.mlp.fc2.weight"][planted, unit] = -MASSIVE / (UNIT_OUTPUT * tensors[f"{last}.ls2"][planted])


def _norm_outputs(source: Path, config: ModelConfig, sites: Sequence[Site]) -> dict[tuple[str, str], torch.Tensor]:
    """Return the inputs ``[B, n, C]`` of the linears after norms, by graph and linear, on a few pictures and texts."""
    seen: dict[tuple[str, str], torch.Tensor] = {}

    def recorder(graph: str, path: str) -> Change:
        def note(x: torch.Tensor) -> torch.Tensor:
            seen[graph, path] = x
            return x

        return note

    checkpoint = open_checkpoint(source)
    fetch = fetch_from(weight_sources(checkpoint.tensors, config))
    for graph, inputs in _samples(checkpoint).items():
        changed = {site.linears[0]: recorder(graph, site.linears[0]) for site in sites}
        torch_outputs(graph, config, inputs, fetch, (), changed)
    return seen


def _samples(checkpoint: Checkpoint) -> dict[str, dict[str, np.ndarray]]:
    """Return pictures and captions of the calibration set."""
    assert checkpoint.tokenizer_file is not None
    data = open_data(EXAMPLE / "data" / "calibration.jsonl").subsample(64)
    pixels = preprocess([data.picture(row) for row in data.rows], checkpoint.config.pictures)
    texts = [text for row in data.rows for _, text in row.captions()]
    ids = Tokenizer(checkpoint.tokenizer_file).encode_texts(texts)
    return {"vision": {"pixel_values": pixels}, "text": {"input_ids": ids}}


def _load(folder: Path) -> Tensors:
    return {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}


def _save(source: Path, target: Path, tensors: Tensors) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("model.safetensors"), dirs_exist_ok=True)
    save_file(tensors, target / "model.safetensors")


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(["folded", "massive"]), required=True)
@click.option("--seed", default=0, show_default=True)
def main(checkpoint: Path, output: Path, kind: str, seed: int) -> None:
    """Write a copy of CHECKPOINT with outliers to OUTPUT."""
    if kind == "folded":
        scale_folds(checkpoint, output, seed=seed)
    else:
        plant_massive(checkpoint, output)


if __name__ == "__main__":
    main()
