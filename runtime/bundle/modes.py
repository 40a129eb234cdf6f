"""The two kinds of picture features, InternVL-C's and InternVL-G's, and which of them a bundle can compute."""

from collections.abc import Collection, Mapping
from typing import Literal

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.graph_roles import EXPORTED_AS, IMAGE_ENCODER, QUERY_ENCODER
from internvl_edge.runtime.errors import BundleError, InputError

Mode = Literal["c", "g"]

MODE_ROLES: Mapping[Mode, tuple[str, ...]] = {"c": (IMAGE_ENCODER,), "g": (IMAGE_ENCODER, QUERY_ENCODER)}
"""Roles of the graphs that compute the picture features of each mode, in order."""


def modes_of(roles: Collection[str]) -> tuple[Mode, ...]:
    """Return the modes that graphs with these roles can compute."""
    return tuple(mode for mode, needed in MODE_ROLES.items() if all(role in roles for role in needed))


def default_mode(roles: Collection[str]) -> Mode:
    """Return the mode of calls that name none: InternVL-G where its graphs exist, otherwise InternVL-C."""
    return "g" if "g" in modes_of(roles) else "c"


def mode_of(bundle: Bundle, mode: Mode | None) -> Mode:
    """Return `mode`, or the default of `bundle` where it is None.

    Raises:
        InputError: there is no such mode.
        BundleError: the bundle lacks a graph that the mode needs.
    """
    graphs, roles = bundle.manifest.graphs, bundle.manifest.roles
    if mode is None:
        mode = default_mode(roles)
    if mode not in MODE_ROLES:
        raise InputError(f"mode {mode!r}: unknown; choose c (InternVL-C) or g (InternVL-G)")
    if mode == "g" and QUERY_ENCODER not in roles and IMAGE_ENCODER in roles:
        query = EXPORTED_AS[QUERY_ENCODER]
        raise BundleError(
            f"{bundle.path}: has no graph {query} (it has {', '.join(graphs)}), which mode g (InternVL-G) needs; "
            f"take mode c, or export it with --graphs {','.join([*graphs, query])}"
        )
    bundle.graphs_of(*MODE_ROLES[mode])
    return mode
