"""Ratio of the largest values on many samples to those on two: `headroom.py CHECKPOINT BUNDLE DATA`."""

from pathlib import Path

import click
import numpy as np

from internvl_edge.export.blockwise.sources import weight_sources
from internvl_edge.export.check.verification_inputs import Tokenizers, VerificationInputs
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.numerics.reach import HEADROOM, Reach, run_rounded
from internvl_edge.export.run.samples import load_samples
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.tokenizer import Tokenizer


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--few", default=2, show_default=True, help="Samples of a verification.")
@click.option("--many", default=64, show_default=True, help="Samples to hold them against.")
def main(checkpoint: Path, bundle: Path, data: Path, few: int, many: int) -> None:
    """Print for each graph of a 16-bit BUNDLE the ratios of the largest values on DATA."""
    opened = open_checkpoint(str(checkpoint))
    manifest = Bundle.open(bundle).manifest
    tokenizer = Tokenizer(opened.tokenizer_file) if opened.tokenizer_file else None

    def reached(graph: str, count: int) -> dict[str, Reach]:
        samples = load_samples(data, opened.config.pictures, count)
        sources = weight_sources(opened.tensors, opened.config)
        inputs = VerificationInputs(opened.config, sources, samples, Tokenizers(texts=tokenizer), ()).inputs(graph)
        _, found = run_rounded(bundle / manifest.graphs[graph].file, inputs)
        return {f"{reach.value} {reach.inside}": reach for reach in found}

    click.echo(f"{many} samples against {few}; HEADROOM is {HEADROOM:g}\n")
    click.echo("| graph | values | median ratio | 99 % | largest | of |\n| --- | ---: | ---: | ---: | ---: | --- |")
    for graph in manifest.graphs:
        low, high = reached(graph, few), reached(graph, many)
        ratios = {name: high[name].largest / low[name].largest for name in low if low[name].largest > 0}
        values = np.array(list(ratios.values()))
        worst = max(ratios, key=lambda name: ratios[name])
        share = np.quantile(values, 0.99)
        click.echo(
            f"| {graph} | {len(values)} | {np.median(values):.2f} | {share:.2f} | {values.max():.2f} | "
            f"{high[worst].place} |"
        )


if __name__ == "__main__":
    main()
