"""Number of devices for a load, estimated from FLOPs, peak rates of data sheets and an assumed share of these.

    python benchmarks/capacity.py [--efficiency 0.5] [--utilization 0.6] [--rate 10000] [--pictures 1e9]

Nothing here is measured. `internvl-edge bench --json` on the device gives the true pictures per second; with
``--measured NAME=RATE`` a row is computed from it.
"""

from argparse import ArgumentParser
from dataclasses import dataclass
from math import ceil, inf

from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.targets import find_target

DEVICES = (
    "orin-nano-8gb",
    "orin-nx-16gb",
    "agx-orin-64gb",
    "agx-thor",
    "l4",
    "l40s",
    "rtx-4090",
    "a100",
    "h100",
    "b200",
)
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A vision tower; the FLOPs of a picture are two for each weight and token, and the products of attention."""

    name: str
    layers: int
    width: int
    hidden: int
    tokens: int

    @property
    def flops(self) -> float:
        """FLOPs of one picture."""
        weights = self.layers * (4 * self.width**2 + 2 * self.width * self.hidden)
        attention = self.layers * 4 * self.tokens**2 * self.width
        return 2 * weights * self.tokens + attention

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.layers * (4 * self.width**2 + 2 * self.width * self.hidden)


TOWERS = (
    Tower(name="InternViT-6B, 224 px", layers=48, width=3200, hidden=12800, tokens=257),
    Tower(name="InternViT-6B, 448 px", layers=45, width=3200, hidden=12800, tokens=1025),
    Tower(name="InternViT-300M, 448 px", layers=24, width=1024, hidden=4096, tokens=1025),
)


def pictures_a_second(tower: Tower, device: Target, precision: str, efficiency: float) -> float:
    """Return pictures per second of a device at a share of its peak; 0 if the weights do not fit."""
    sheet = device.sheet
    if sheet is None or precision not in sheet.tflops:
        return 0.0
    weight_bytes = tower.weights * (2 if precision == "fp16" else 1)
    if weight_bytes > 0.7 * sheet.memory_gib * 2**30:
        return 0.0
    return sheet.tflops[precision] * 1e12 * efficiency / tower.flops


def main() -> None:
    """Print a table for each tower."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--efficiency", type=float, default=0.5, help="share of the peak that a plan reaches")
    parser.add_argument("--utilization", type=float, default=0.6, help="of a device that answers within a deadline")
    parser.add_argument("--rate", type=float, default=10_000, help="pictures a second to serve")
    parser.add_argument("--pictures", type=float, default=1e9, help="pictures to embed once")
    parser.add_argument("--measured", action="append", default=[], metavar="NAME=RATE")
    options = parser.parse_args()
    measured = {name: float(rate) for name, rate in (entry.split("=") for entry in options.measured)}
    for tower in TOWERS:
        print(f"\n{tower.name}: {tower.flops / 1e12:.2f} TFLOP a picture, {tower.weights / 1e9:.2f} G weights\n")
        print(f"| device | precision | pictures/s | for {options.rate:g}/s | days for {options.pictures:g} |")
        print("| --- | --- | ---: | ---: | ---: |")
        for name in DEVICES:
            device = find_target(name)
            kinds = device.sheet.tflops if device.sheet else {}
            precision = "int8" if "int8" in kinds else "fp16"
            rate = measured.get(name) or pictures_a_second(tower, device, precision, options.efficiency)
            devices = ceil(options.rate / (rate * options.utilization)) if rate else inf
            days = options.pictures / rate / _DAY_S if rate else inf
            shown = ("-", "-", "-") if rate == 0 else (f"{rate:.1f}", f"{devices:,}", f"{days:,.0f}")
            print(f"| {name} | {precision} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
