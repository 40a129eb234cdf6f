"""Time and peak memory of exports of chat checkpoints: `python benchmarks/chat_scale.py FOLDER [1b|8b|26b ...]`.

1b and 8b write a random checkpoint of that size below FOLDER (2 and 16 GB), export it and remove both. 26b has no
weights: it traces the graphs of a 6B tower with a language model of 20B, and plans the store.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click
import torch
from export_scale import Export, export, measured
from random_checkpoint import PRESETS, write_checkpoint

from internvl_edge.export.canonical.passes import canonicalize
from internvl_edge.export.canonical.trace import trace_graph
from internvl_edge.export.checkpoint.config.config_json import config_from_json
from internvl_edge.export.checkpoint.files.tensors import LazyTensor
from internvl_edge.export.checkpoint.store.weight_store import attach_placeholders, placeholders, plan_weights
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.families.language_model import EMBEDDING
from internvl_edge.export.models.graphs import graph_rows
from internvl_edge.export.models.internvl import InternVLModel

_INTERNLM2_20B = {
    "architectures": ["InternLM2ForCausalLM"],
    "model_type": "internlm2",
    "hidden_size": 6144,
    "num_hidden_layers": 48,
    "intermediate_size": 16384,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "vocab_size": 92553,
    "rms_norm_eps": 1e-5,
    "bias": False,
    "rope_theta": 1000000,
    "rope_scaling": {"type": "dynamic", "factor": 3.0},
    "max_position_embeddings": 32768,
}
INTERNVL2_5_26B = {**PRESETS["internvl2_5-38b"], "llm_config": _INTERNLM2_20B}


def one_billion(folder: Path) -> str:
    """Measure InternVL2.5-1B's size from bf16 to fp16."""
    return _line("InternVL2.5-1B", _exported(folder, "internvl2_5-1b"), "60 s, 1.5 GiB")


def eight_billion(folder: Path) -> str:
    """Measure InternVL3-8B's size from bf16 to fp16."""
    return _line("InternVL3-8B", _exported(folder, "internvl3-8b"), "2.5 GiB")


def twenty_six_billion(folder: Path) -> str:
    """Measure tracing and planning of InternVL2.5-26B, in a process of its own."""
    seconds, peak = measured([sys.executable, __file__, str(folder), "plan"])
    return f"InternVL2.5-26B, traced and planned: {seconds:.1f} s, {peak:.2f} GiB (wanted 3 GiB)"


def plan(folder: Path) -> str:
    """Trace every default graph of InternVL2.5-26B and give each of its weights a place."""
    config = config_from_json(INTERNVL2_5_26B)
    names = [name for name, row in graph_rows(config).items() if row.by_default]
    used = {EMBEDDING}
    for name in names:
        model = canonicalize(trace_graph(name, config, torch.float16))
        attach_placeholders(model)
        used |= set(placeholders(model))
    stored = _tensors(config, folder / "absent.safetensors")
    made = plan_weights([stored[name] for name in sorted(used)], "float16", frozenset())
    size = sum(place.nbytes for place in made.placements.values())
    return f"{', '.join(names)}: {len(made.placements)} tensors, {size / 1e9:.1f} GB"


CASES: dict[str, Callable[[Path], str]] = {
    "1b": one_billion,
    "8b": eight_billion,
    "26b": twenty_six_billion,
    "plan": plan,
}


def _exported(folder: Path, preset: str) -> Export:
    checkpoint = folder / preset
    write_checkpoint(checkpoint, preset, dtype="bfloat16", tokenizer=True)
    try:
        return export(checkpoint, folder / "bundle", "auto")
    finally:
        shutil.rmtree(checkpoint)


def _line(what: str, done: Export, wanted: str) -> str:
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in done.stages.items() if seconds >= 0.1)
    return f"{what}: {done.seconds:.1f} s ({stages}), {done.peak_gib:.2f} GiB (wanted {wanted})"


def _tensors(config: ModelConfig, file: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a checkpoint of `config`, in bf16 and one behind the other; there is no such file."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in InternVLModel(config).state_dict().items()}
    found: dict[str, LazyTensor] = {}
    offset = 0
    for name, shape in shapes.items():
        nbytes = 2 * torch.Size(shape).numel()
        found[name] = LazyTensor(name=name, dtype="bfloat16", shape=shape, file=file, offset=offset, nbytes=nbytes)
        offset += nbytes
    return found


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.argument("cases", nargs=-1, type=click.Choice(list(CASES)))
def main(folder: Path, cases: tuple[str, ...]) -> None:
    """Measure the CASES (default: 1b and 26b) below FOLDER."""
    for case in cases or ("1b", "26b"):
        click.echo(CASES[case](folder))


if __name__ == "__main__":
    main()
