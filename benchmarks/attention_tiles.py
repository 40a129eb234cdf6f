"""Choose the tiles of the attention kernels: `python benchmarks/attention_tiles.py [--only NAME] [--minutes M]`.

Every choice of a family is compiled once for each kind of tensor core and ranked for each SM by `tiles_model`. The best
are compiled for that SM itself, and kept if they do not spill, fit into shared memory and use tensor cores. Nothing
runs on a GPU. The table `export/plugins/tiling/tiles_table.py` is written; rows of other families stay.
"""

import argparse
import math
import runpy
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from internvl_edge.export.plugins.compile_kernel import CompiledKernel, compile_kernel
from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.family import Family, first_sm
from internvl_edge.export.plugins.launches import Constant, Launch
from internvl_edge.export.plugins.tiling.occupancy import fits
from internvl_edge.export.plugins.tiling.tiles import Tiles
from internvl_edge.export.plugins.tiling.tiles_model import predicted_us
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.sms import FIRST_TENSOR_CORE_SM, SMS

KEPT = 2
"""Number of choices in a row, of which TensorRT measures the time when it builds a plan."""
Variant = tuple[Family, Mapping[str, str], Mapping[str, Constant]]
"""A plugin family with the types and attributes of one launch."""
_TABLE_FILE = Path(__file__).resolve().parent.parent / "export" / "plugins" / "tiling" / "tiles_table.py"


def main() -> None:
    """Search the tiles of each family, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="Families; by default all.")
    parser.add_argument("--minutes", type=float, default=math.inf, help="Begin no further row after these.")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    for key, variants in _rows().items():
        if options.only and not any(family.name in options.only for family, _, _ in variants):
            continue
        if time.monotonic() > until:
            print("out of time", file=sys.stderr)
            return
        row = dict(_searched(variants))
        print(key, {sm: found[0] if found else "" for sm, found in row.items()}, flush=True)
        _write(key, row)


def _rows() -> dict[str, list[Variant]]:
    """Return the rows of the table, each with the variants that share it; the first one gives the time of the row."""
    rows: dict[str, list[Variant]] = {}
    for family in FAMILIES:
        if len(family.choices) > 1:
            for types, attributes in family.variants:
                rows.setdefault(family.key(types, attributes), []).append((family, types, attributes))
    return rows


def _searched(variants: Sequence[Variant]) -> Iterator[tuple[int, tuple[str, ...]]]:
    family, types, attributes = variants[0]
    for stand_in, rows in groupby(SMS, key=lambda row: row.tiles_like):
        stand_in = max(stand_in, first_sm(types, attributes))
        compiled = {}
        for tiles in family.choices:
            kernel = _compiled(family.launch(types, attributes, tiles, stand_in), stand_in)
            if kernel is not None and kernel.spill_bytes == 0:
                compiled[tiles] = kernel
        for sm in (row.sm for row in rows):
            if sm >= first_sm(types, attributes):
                yield sm, tuple(_best(variants, compiled, sm))


def _best(variants: Sequence[Variant], compiled: Mapping[Tiles, CompiledKernel], sm: int) -> Iterator[str]:
    """Yield the best choices that are valid on `sm` for all `variants`, which differ by a few registers.

    On Turing there are none with tensor cores.
    """
    family, types, attributes = variants[0]
    ranked = sorted(compiled, key=lambda tiles: _score(family, types, attributes, tiles, compiled[tiles], sm))
    kept = 0
    for tiles in ranked:
        if kept == KEPT or (family.products and sm < FIRST_TENSOR_CORE_SM):
            return
        alike = [
            one.launch(kinds, attributes, tiles, sm)
            for one, kinds, attributes in variants
            if sm >= first_sm(kinds, attributes)
        ]
        if all(_serves(launch, family, sm) for launch in alike):
            kept += 1
            yield tiles.text()


def _serves(launch: Launch, family: Family, sm: int) -> bool:
    kernel = _compiled(launch, sm)
    return kernel is not None and serves(family, kernel)


def serves(family: Family, kernel: CompiledKernel) -> bool:
    """Return whether a plan may contain it: it does not spill, fits into shared memory and uses tensor cores."""
    return kernel.spill_bytes == 0 and fits(kernel) and bool(kernel.tensor_cores or not family.products)


def _score(
    family: Family,
    types: Mapping[str, str],
    attributes: Mapping[str, Constant],
    tiles: Tiles,
    kernel: CompiledKernel,
    sm: int,
) -> float:
    """Return the predicted time over the work, as the geometric mean over the typical sizes of the family."""
    launch, there = family.launch(types, attributes, tiles, sm), replace(kernel, sm=sm)
    times = []
    for sizes in family.typical:
        work = family.work(launch, sizes)
        times.append(predicted_us(there, work, tiles.stages))
    return math.exp(sum(math.log(each) for each in times) / len(times)) if all(map(math.isfinite, times)) else math.inf


def _compiled(launch: Launch, sm: int) -> CompiledKernel | None:
    try:
        return compile_kernel(launch, sm)
    except EngineError as error:
        print(f"{launch.plugin} {dict(launch.constants)} {launch.warps} sm_{sm}: {error}"[:200], file=sys.stderr)
        return None


def _write(key: str, row: Mapping[int, tuple[str, ...]]) -> None:
    """Write one row into the current table, since several searches may run at the same time."""
    head = _TABLE_FILE.read_text(encoding="utf-8").partition("TABLE:")[0]
    table = runpy.run_path(str(_TABLE_FILE))["TABLE"] | {key: dict(sorted(row.items()))}
    lines = ["TABLE: dict[str, dict[int, tuple[str, ...]]] = {"]
    for name, found in sorted(table.items()):
        lines.append(f'    "{name}": {{')
        for sm, choices in found.items():
            listed = ", ".join(f'"{choice}"' for choice in choices)
            lines.append(f"        {sm}: ({listed}{',' if len(choices) == 1 else ''}),")
        lines.append("    },")
    _TABLE_FILE.write_text(head + "\n".join([*lines, "}"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
