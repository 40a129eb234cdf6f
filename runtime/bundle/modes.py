"""Whose picture features are meant: InternVL-C's or InternVL-G's, and which of them a bundle can give."""

from collections.abc import Collection, Mapping
from typing import Literal

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.errors import BundleError, InputError

Mode = Literal["c", "g"]

MODE_GRAPHS: Mapping[Mode, tuple[str, ...]] = {"c": ("vision",), "g": ("vision", "query")}
"""Mode -> the graphs that its picture features go through; the later modes take more."""


def modes_of(graphs: Collection[str]) -> tuple[Mode, ...]:
    """Return the modes that these graphs suffice for."""
    return tuple(mode for mode, needed in MODE_GRAPHS.items() if all(graph in graphs for graph in needed))


def default_mode(graphs: Collection[str]) -> Mode:
    """Return the mode of who names none: InternVL-G where its graph is there, otherwise InternVL-C."""
    return "g" if "g" in modes_of(graphs) else "c"


def mode_of(bundle: Bundle, mode: Mode | None) -> Mode:
    """Return `mode`, or the default of `bundle` where it is None.

    Raises:
        InputError: there is no such mode.
        BundleError: the bundle lacks a graph that the mode needs.
    """
    graphs = bundle.manifest.graphs
    if mode is None:
        mode = default_mode(graphs)
    if mode not in MODE_GRAPHS:
        raise InputError(f"mode {mode!r}: unknown; choose c (InternVL-C) or g (InternVL-G)")
    if mode == "g" and "query" not in graphs and "vision" in graphs:
        raise BundleError(
            f"{bundle.path}: has no graph query (it has {', '.join(graphs)}), which mode g (InternVL-G) needs; "
            f"take mode c, or export it with --graphs {','.join([*graphs, 'query'])}"
        )
    bundle.require(*MODE_GRAPHS[mode])
    return mode
