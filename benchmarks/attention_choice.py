"""The form of attention that `--attention auto` chooses: `python benchmarks/attention_choice.py [--sm 90]`.

For the variants of every plugin that replaces a whole attention, it prints launches, bytes and predicted time of the
plugin and of the pattern, on one device of each SM. Nothing runs on a GPU.
"""

import argparse
from collections.abc import Iterator, Mapping

from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.family import CODED as CODED_NAME
from internvl_edge.export.plugins.family import Family
from internvl_edge.export.plugins.launches import Constant
from internvl_edge.export.plugins.pattern_costs import CODED, WIDE
from internvl_edge.export.plugins.plugin_or_pattern import Call, weigh

SMS = (80, 87, 89, 90, 100, 110, 120)
BATCHES = (1, 8)
_NORMED = ("vit_attention", "vit_attention_8bit")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sm", action="append", type=int, help="SMs; by default one for each kind of device.")
    options = parser.parse_args()
    print("| attention | SM | plugin: launches, MB, us | pattern: launches, MB, us | auto |")
    print("| --- | --- | --- | --- | --- |")
    for name, calls in _attentions():
        for sm in options.sm or SMS:
            if any(FAMILY[call.plugin].refusal(call.types, call.attributes, sm) for call in calls):
                continue
            found = weigh(calls, sm)
            costs = " | ".join(
                f"{each.launches}, {each.bytes / 1e6:.1f}, {each.us:.0f}" for each in (found.plugin, found.pattern)
            )
            print(f"| {name} | {sm} | {costs} | {'plugin' if found.wins else 'pattern'} |", flush=True)


def _attentions() -> Iterator[tuple[str, list[Call]]]:
    for family in FAMILIES:
        plain = family.name.removesuffix(CODED_NAME)
        if plain not in WIDE or (plain != family.name and CODED[plain] == WIDE[plain]):
            continue
        for types, attributes in family.variants:
            if types[family.typed_by] != "fp16" or attributes.get("out") == "fp8":
                continue
            for usual in family.typical:
                for batch in BATCHES:
                    sizes = {**usual, "B": batch}
                    name = f"{family.name}, {_values_text({**attributes, **sizes})}"
                    yield (
                        name,
                        [
                            *_norms(family, types, attributes, sizes),
                            Call(plugin=family.name, types=types, attributes=attributes, sizes=sizes),
                        ],
                    )


def _norms(
    family: Family, types: Mapping[str, str], attributes: Mapping[str, Constant], sizes: Mapping[str, int]
) -> Iterator[Call]:
    if family.name in _NORMED:
        width = int(attributes["heads"]) * int(attributes["head_dim"])
        yield Call(
            plugin="vit_norms", types={"qkv": types["qkv"]}, attributes={"width": width, "eps": 1e-6}, sizes=sizes
        )


def _values_text(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


FAMILY = {family.name: family for family in FAMILIES}

if __name__ == "__main__":
    main()
