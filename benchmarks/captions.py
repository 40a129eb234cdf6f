"""Tokens per second of captions, beside a torch loop with the same cache: `captions.py CHECKPOINT BUNDLE`.

Both begin with the query cache of the same pictures, and write as many tokens with the same search, in turns.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch_model import load_model

from internvl_edge.export.models.graphs import graph_spec
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.array_cache import open_cache
from internvl_edge.runtime.backends.session import KeyValueCache
from internvl_edge.runtime.stages import UNMEASURED, Stages
from internvl_edge.runtime.tasks.caption_decoder import CaptionDecoder
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.search import generate

PROMPT = "English caption:"
Open = Callable[[Mapping[str, np.ndarray], int, int], KeyValueCache]
"""Function that returns a cache of a number of rows and a length from the query cache."""


class TorchCache:
    """Cache whose keys and values stay in torch, as in a caption loop in torch."""

    def __init__(self, decoder: nn.Module, present: Mapping[str, np.ndarray]) -> None:
        self._decoder = decoder
        self._past = [torch.from_numpy(values) for values in present.values()]

    @torch.inference_mode()
    def step(self, inputs: Mapping[str, np.ndarray], stages: Stages = UNMEASURED) -> np.ndarray:
        """Append new columns; return logits ``[R, V]`` of the last."""
        fed = (torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values())
        outputs: list[Tensor] = list(self._decoder(*fed, *self._past))
        self._past = outputs[1:]
        logits: np.ndarray = outputs[0].numpy()
        return logits

    @torch.inference_mode()
    def select(self, rows: np.ndarray, shared: int) -> None:
        """Keep the rows with these indices, as `transformers` reorders its cache."""
        index = torch.from_numpy(rows)
        self._past = [values.index_select(0, index) for values in self._past]

    def truncate(self, length: int) -> None:
        """Keep the first `length` positions."""
        self._past = [values[:, :, :length] for values in self._past]

    def reserve(self, rows: int, length: int) -> None:
        """Do nothing: every step returns larger tensors."""

    def close(self) -> None:
        """Free the cache."""
        self._past = []


def torch_decoder(checkpoint_folder: Path) -> nn.Module:
    """Return the decoder of a checkpoint in torch, in fp32."""
    config, model = load_model(checkpoint_folder)
    return graph_spec("decoder", config, model, torch.float32).module


def seconds(open_one: Open, query: Mapping[str, np.ndarray], prompts: np.ndarray, config: GenerationConfig) -> float:
    """Return the time in seconds of a caption for every picture, beginning with the query cache."""
    return _written(open_one, query, prompts, config)[1]


def _written(
    open_one: Open, query: Mapping[str, np.ndarray], prompts: np.ndarray, config: GenerationConfig
) -> tuple[np.ndarray, float]:
    present = {name: values for name, values in query.items() if name.startswith("present.")}
    held = next(iter(present.values())).shape[2]
    length = held + prompts.shape[1] + config.max_new_tokens - 1
    start = time.perf_counter()
    cache = open_one(present, len(prompts) * config.num_beams, length)
    ids = generate(CaptionDecoder(cache, held, prompts), config).ids
    cache.close()
    return ids, time.perf_counter() - start


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--backend", default="onnxruntime", show_default=True)
@click.option("--tokens", type=click.IntRange(1), default=16, show_default=True, help="New tokens of a caption.")
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), default=(1, 8), show_default=True)
def main(
    checkpoint: Path, bundle: Path, backend: str, tokens: int, repeats: int, threads: int, batches: tuple[int, ...]
) -> None:
    """Print tokens per second of BUNDLE, in fp32, and of its CHECKPOINT in torch."""
    torch.set_num_threads(threads)
    model = InternVL.open(bundle, backend, verify=False, options=SessionOptions(threads=threads))
    session, decoder = model.session("decoder"), torch_decoder(checkpoint)
    sides: dict[str, Open] = {
        "ours": lambda present, rows, length: open_cache(session, present, rows, length),
        "torch": lambda present, rows, length: TorchCache(decoder, present),
    }
    rng, size = np.random.default_rng(0), model.info.vision.image_size
    click.echo(
        f"{backend}, torch {torch.__version__}, {threads} threads, {tokens} tokens, median of {repeats} in turns"
    )
    click.echo("| pictures | beams | " + " | ".join(f"{name}, tokens/s" for name in sides) + " | torch's ids |")
    click.echo("| ---: | ---: | " + " | ".join("---:" for _ in sides) + " | --- |")
    for batch in batches:
        pixels = rng.normal(size=(batch, 3, size, size)).astype(np.float32)
        query = model.run_graph("query", model_states(model, pixels))
        prompts = np.repeat(model.tokenizer.encode_prompt(PROMPT), batch, axis=0)
        for beams in (1, 3):
            config = GenerationConfig(num_beams=beams, min_new_tokens=tokens, max_new_tokens=tokens)
            ids = {name: _written(side, query, prompts, config)[0] for name, side in sides.items()}  # warms up as well
            times: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(repeats):
                for name, side in sides.items():
                    seconds(side, query, prompts, config)  # the threads of whoever ran before spin for a while
                    times[name].append(seconds(side, query, prompts, config))
            rates = " | ".join(f"{batch * tokens / median(taken):.1f}" for taken in times.values())
            same = "the same" if np.array_equal(ids["torch"], ids["ours"]) else "others"
            click.echo(f"| {batch} | {beams} | {rates} | {same} |")


def model_states(model: InternVL, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the inputs of the query graph."""
    return {"vision_states": model.run_graph("vision", {"pixel_values": pixels})["vision_states"]}


if __name__ == "__main__":
    main()
