"""Quality of the cost model of tiles on an H100: `python benchmarks/attention_model.py [--only FAMILY]`.

Compiles every measured tile for sm_90 (minutes), and prints for each row of the table of tiles how much slower the
model's first choice, and the better of its first two, ran than the fastest: geometric means over the row's sizes and
types.
"""

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from internvl_edge.export.plugins.compile_kernel import compile_kernel
from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.family import Family
from internvl_edge.export.plugins.tiling.tiles_model import predicted_us

MEASURED = Path(__file__).resolve().parent / "measured" / "attention_h100.csv"
_SM = 90

Times = tuple[float, float]
"""Logarithms of predicted and measured microseconds."""


def main() -> None:
    """Print a row for each row of the table of tiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="Families; by default all.")
    options = parser.parse_args()
    measured = dict(_measured())
    rows: dict[str, dict[str, list[Times]]] = defaultdict(lambda: defaultdict(list))
    for family in FAMILIES:
        if len(family.choices) > 1 and (not options.only or family.name in options.only):
            for row, tiles, times in _times(family, measured):
                rows[row][tiles].append(times)
    print("| row | tiles | first choice | best of two | predicted off by |\n| --- | ---: | ---: | ---: | ---: |")
    firsts = []
    for row, found in rows.items():
        first, best_of_two, off = _compared(found)
        firsts.append(first)
        print(f"| {row} | {len(found)} | {first:.2f} | {best_of_two:.2f} | {off:.2f} |")
    print(f"\nFirst choice: {sum(firsts) / len(firsts):.2f} of the fastest on average, {max(firsts):.2f} at worst.")


def _measured() -> Iterator[tuple[tuple[str, ...], float]]:
    with MEASURED.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            yield tuple(line[name] for name in ("family", "types", "attributes", "sizes", "tiles")), float(line["us"])


def _times(family: Family, measured: Mapping[tuple[str, ...], float]) -> Iterator[tuple[str, str, Times]]:
    for types, attributes in family.variants:
        for tiles in family.choices:
            launch = family.launch(types, attributes, tiles)
            kinds = "/".join(dict.fromkeys(tensor.type for tensor in launch.inputs))
            for sizes in family.typical:
                key = (family.name, kinds, _values_text(attributes), _values_text(sizes), tiles.text())
                if key in measured:
                    kernel = compile_kernel(launch, _SM)
                    predicted = predicted_us(kernel, family.work(launch, sizes), launch.stages)
                    yield family.key(types, attributes), key[-1], (math.log(predicted), math.log(measured[key]))


def _compared(found: Mapping[str, list[Times]]) -> tuple[float, float, float]:
    """Return the time of the first choice and of the better of two over the fastest, and the error of predictions."""
    means = [[sum(times) / len(all_times) for times in zip(*all_times, strict=True)] for all_times in found.values()]
    ranked = [measured for _, measured in sorted((predicted, measured) for predicted, measured in means)]
    fastest = min(ranked)
    every = [predicted - measured for all_times in found.values() for predicted, measured in all_times]
    off = math.exp(math.sqrt(sum(error**2 for error in every) / len(every)))
    return math.exp(ranked[0] - fastest), math.exp(min(ranked[:2]) - fastest), off


def _values_text(numbers: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in numbers.items())


if __name__ == "__main__":
    main()
