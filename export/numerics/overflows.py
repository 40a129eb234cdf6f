"""Rewrite parts of 16-bit graphs to fp32 until no value overflows."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from internvl_edge.export.numerics.islands import islands_of, keep_wide, wide_borders
from internvl_edge.export.numerics.reach import HEADROOM, Reach
from internvl_edge.runtime.errors import VerificationError

ROUNDS = 4
"""Most rounds of measuring and rewriting: the first finds all overflows, later ones those that rewriting caused."""
SHOWN = 8
"""Most places that a message lists."""
_CACHE = re.compile(r"^(?:present|past_key_values)\.(\d+\.(?:key|value))$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Island:
    """A value that overflows 16 bits or comes near it; nodes that write or read it compute in fp32."""

    value: str
    place: str
    """Node and part that write the value, as `Reach.place`."""
    largest: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp32Parts:
    """Parts of a 16-bit graph that compute in fp32."""

    islands: tuple[Island, ...] = ()
    nodes: tuple[str, ...] = ()
    """Names of all nodes that compute in fp32 because of the islands."""

    @property
    def values(self) -> frozenset[str]:
        """Names of the values of the islands."""
        return frozenset(island.value for island in self.islands)


Measure = Callable[[str, Fp32Parts], Sequence[Reach]]
"""Function that verifies the graph of a name, as its file is now, and returns the reach of its 16-bit values."""


def resolve_overflows(files: Mapping[str, Path], measure: Measure, on_overflow: str) -> dict[str, Fp32Parts]:
    """Rewrite the graphs in `files` until no value overflows, and return the parts of each that are in fp32.

    Raises:
        VerificationError: a value overflows and `on_overflow` is ``refuse``, or rewriting does not help.
    """
    kept = {name: Fp32Parts() for name in files}
    waiting = list(files)
    for _ in range(ROUNDS):
        near = {name: [reach for reach in measure(name, kept[name]) if reach.is_near] for name in waiting}
        near = {name: reached for name, reached in near.items() if reached}
        if not near:
            return kept
        if on_overflow == "refuse":
            raise VerificationError(f"{_listed(near)}; try --dtype bf16 or fp32, or leave out --on-overflow refuse")
        if not (waiting := list(_rewrite(files, kept, near))):
            break
    raise VerificationError(f"{_listed(near)}, also with islands in fp32; try --dtype bf16 or fp32")


def overflow_lines(kept: Mapping[str, Fp32Parts]) -> Iterator[str]:
    """Yield a line of text for each graph with islands."""
    for name, held in kept.items():
        if held.islands:
            worst = sorted(held.islands, key=lambda island: -island.largest / island.limit)
            shown = ", ".join(f"{i.place} ({i.largest:.3g} of {i.limit:.3g})" for i in worst[:SHOWN])
            more = f" and {len(worst) - SHOWN} more" if len(worst) > SHOWN else ""
            yield f"{name}: {len(held.nodes)} nodes in fp32, since 16 bits would overflow: {shown}{more}"


def _rewrite(
    files: Mapping[str, Path], kept: dict[str, Fp32Parts], near: Mapping[str, Sequence[Reach]]
) -> Iterator[str]:
    """Rewrite every graph with values in `near`, or that shares such a value with another; yield their names."""
    models = {name: ir.load(file) for name, file in files.items()}
    values = _linked(models, {name: frozenset(r.value for r in near.get(name, ()) if not r.inside) for name in files})
    for name, model in models.items():
        nodes = frozenset(reach.node for reach in near.get(name, ()) if reach.inside)
        if not (chosen := islands_of(model.graph, values[name], nodes)):
            continue
        islands = [
            Island(value=r.value, place=r.place, largest=r.largest, limit=r.limit) for r in near.get(name, ())
        ] or [_passed_on(value, near) for value in sorted(values[name])]
        ir.save(keep_wide(model, values[name], nodes), files[name])
        before = kept[name]
        kept[name] = Fp32Parts(
            islands=(*before.islands, *islands), nodes=tuple(dict.fromkeys((*before.nodes, *chosen)))
        )
        yield name


def _linked(models: Mapping[str, ir.Model], values: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Return `values` with the inputs and outputs connected to them in other graphs, since both ends have one type."""
    found = dict(values)
    while True:
        passed = {_link(name) for graph, model in models.items() for name in wide_borders(model.graph, found[graph])}
        linked = {
            graph: found[graph] | {name for name in _borders(model.graph) if _link(name) in passed}
            for graph, model in models.items()
        }
        if linked == found:
            return found
        found = linked


def _borders(graph: ir.Graph) -> Iterator[str]:
    yield from (str(value.name) for value in (*graph.inputs, *graph.outputs))


def _link(name: str) -> str:
    """Return a name that an input and the output that feeds it have in common."""
    match = _CACHE.match(name)
    return f"cache.{match[1]}" if match else name


def _passed_on(value: str, near: Mapping[str, Sequence[Reach]]) -> Island:
    """Return the island of a value that is fp32 because of another graph."""
    reached = [r for found in near.values() for r in found]
    worst = max(reached, key=lambda reach: reach.largest / reach.limit)
    return Island(value=value, place=value, largest=worst.largest, limit=worst.limit)


def _listed(near: Mapping[str, Iterable[Reach]]) -> str:
    found = [(name, reach) for name, reached in near.items() for reach in reached]
    found.sort(key=lambda pair: -pair[1].largest / pair[1].limit)
    shown = ", ".join(f"{name}: {reach.place} reaches {reach.largest:.3g}" for name, reach in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"16 bits overflow, or come within {HEADROOM:g} times of it ({found[0][1].limit:.5g}): {shown}{more}"
