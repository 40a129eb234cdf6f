"""Cost of Ray: pictures per second of `run embed` by the local engine, and by one and two workers of a cluster.

    python benchmarks/ray_embed.py BUNDLE PICTURES [--count 2000] [--rounds 3] [--backend onnxruntime] [--threads 1]

The cluster is this machine; it is started before the clock is. Rounds are interleaved; medians are printed, with the
range. The first call of a worker opens its graphs: `open` is the time of this, which does not matter in a long run.
"""

import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.embed.compute import Engine
from internvl_edge.runtime.embed.embedding import embed
from internvl_edge.runtime.embed.options import EmbedOptions
from internvl_edge.runtime.inputs.read import find_pictures
from internvl_edge.runtime.ray.engine import RayEngine, RayOptions


def main() -> None:
    """Print a table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, default=2000, help="pictures; those at hand are repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1, help="of a session")
    options = parser.parse_args()
    pictures = list(islice(cycle(find_pictures([options.pictures])), options.count))
    session = SessionOptions(threads=options.threads)
    with InternVL.open(options.bundle, options.backend, options=session) as model:

        def on_ray(workers: int) -> Callable[[], Engine]:
            settings = RayOptions(workers=workers, backend=options.backend, threads=options.threads)
            return lambda: RayEngine(model.bundle, settings)

        engines: dict[str, Callable[[], Engine | None]] = {
            "local": lambda: None,
            "ray, 1 worker": on_ray(1),
            "ray, 2 workers": on_ray(2),
        }
        on_ray(1)()  # the cluster starts
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        opening: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:

            def took(name: str, count: int) -> float:
                start = time.perf_counter()
                output = EmbedOptions(output=Path(folder) / "features.npy", mode="c")
                embed(model, pictures[:count], output, engine=engines[name]())
                return time.perf_counter() - start

            for name in engines:
                opening[name] = took(name, 1)
            for _ in range(options.rounds):
                for name in engines:
                    seconds[name].append(took(name, options.count))
    print(f"| engine | pictures/s ({options.count}) | range | one picture, s |")
    print("| --- | ---: | --- | ---: |")
    for name, times in seconds.items():
        rates = sorted(options.count / each for each in times)
        print(f"| {name} | {statistics.median(rates):.0f} | {rates[0]:.0f} to {rates[-1]:.0f} | {opening[name]:.1f} |")


if __name__ == "__main__":
    main()
