"""Select the optimization profile of a graph's plans for arrays of given shapes."""

from collections.abc import Mapping, Sequence
from itertools import chain

from internvl_edge.runtime.bundle.engines import Profile
from internvl_edge.runtime.errors import InputError

Shape = tuple[int, ...]


def choose_profile(graph: str, profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int:
    """Return the index of the first profile that contains all `shapes`.

    Raises:
        InputError: there is none; the message has the limits of each profile.
    """
    if not profiles:
        return 0  # graphs without dynamic axes have no profiles
    beyond = [_beyond(profile, shapes) for profile in profiles]
    if [] in beyond:
        return beyond.index([])
    given = ", ".join(f"{name} {list(shapes[name])}" for name in dict.fromkeys(chain(*beyond)))
    takes = "; or ".join(
        ", ".join(f"{name} {list(profile[name][0])} to {list(profile[name][2])}" for name in names)
        for profile, names in zip(profiles, beyond, strict=True)
    )
    raise InputError(
        f"graph {graph}: {given} is beyond its plan, which takes {takes}; give fewer rows or tokens at once, or build "
        "with a wider --batch or --text-length"
    )


def _beyond(profile: Profile, shapes: Mapping[str, Shape]) -> list[str]:
    """Return the names of inputs that are outside of `profile`."""
    return [
        name
        for name, (smallest, _, largest) in profile.items()
        if not all(low <= size <= high for low, size, high in zip(smallest, shapes[name], largest, strict=True))
    ]
