"""Resources of the compiled attention kernels on each GPU, without a GPU: `python benchmarks/attention_aot.py`.

Prints one Markdown table per plugin: registers and spills by ptxas, shared memory against what a block may have,
tensor-core instruction in the PTX, theoretical occupancy, arithmetic intensity and the model's time for the first of
the family's typical sizes. Where no tiles serve (all of Turing: Triton emits no tensor-core code for it), the row says
"none" and shows what the first choice would take.
"""

import argparse
from collections.abc import Iterator, Mapping

from attention_tiles import serves

from internvl_edge.export.plugins.compile_kernel import CompiledKernel, compile_kernel
from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.family import Family, first_sm
from internvl_edge.export.plugins.launches import Constant, Launch
from internvl_edge.export.plugins.tiling.occupancy import occupancy
from internvl_edge.export.plugins.tiling.tiles_model import predicted_us
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.sms import sm_row

SMS = (75, 80, 86, 87, 89, 90, 100, 110, 120)
_COLUMNS = (
    *("types", "SM", "tiles", "registers", "spilled bytes", "shared memory KiB (limit)", "tensor cores"),
    *("occupancy (bound)", "FLOP/byte", "model us"),
)


def main() -> None:
    """Print a table for each plugin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="Plugins; by default all.")
    options = parser.parse_args()
    for family in FAMILIES:
        if options.only and family.name not in options.only:
            continue
        case = f"{_values_text(family.variants[0][1])}, {_values_text(family.typical[0])}"
        print(f"\n## {family.name}\n\n`{family.kernel}`, {case}\n")
        print(f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}")
        for types, attributes in family.variants:
            for sm in SMS:
                for line in _line(family, types, attributes, sm):
                    print(f"| {' | '.join(line)} |", flush=True)


def _line(
    family: Family, types: Mapping[str, str], attributes: Mapping[str, Constant], sm: int
) -> Iterator[tuple[str, ...]]:
    kinds = "/".join(dict.fromkeys(types[name] for name in family.inputs if name in (family.typed_by, "key_cache")))
    kinds += f" to {attributes['out']}" if "out" in attributes else ""
    if sm < first_sm(types, attributes):
        return
    launches = family.launches(types, attributes, sm)
    chosen = bool(launches)
    launch = launches[0] if launches else family.launch(types, attributes, family.choices[0], sm)
    try:
        kernel = compile_kernel(launch, sm)
    except EngineError as error:
        yield (kinds, str(sm), f"none: {error}", *[""] * 7)
        return
    tiles = " ".join(f"{k}={v}" for k, v in launch.constants.items() if k in ("BM", "BN", "BLOCK", "SPLITS"))
    name = f"{tiles} warps={launch.warps} stages={launch.stages}"
    yield (
        kinds,
        str(sm),
        name if chosen and serves(family, kernel) else f"none ({name})",
        *_figures(family, launch, kernel),
    )


def _figures(family: Family, launch: Launch, kernel: CompiledKernel) -> tuple[str, ...]:
    held, work = occupancy(kernel), family.work(launch, family.typical[0])
    return (
        str(kernel.registers),
        str(kernel.spill_bytes),
        f"{kernel.shared_bytes / 1024:.1f} ({sm_row(kernel.sm).block_shared_kib})",
        kernel.tensor_cores or "none",
        f"{held.fraction:.0%} ({held.bound})",
        f"{work.intensity:.0f}",
        f"{predicted_us(kernel, work, launch.stages):.0f}",
    )


def _values_text(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


if __name__ == "__main__":
    main()
