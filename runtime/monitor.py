"""Times and progress of one call, passed with the call, so that calls of a shared model stay separate."""

from dataclasses import dataclass

from internvl_edge.runtime.progress import Advance, no_advance
from internvl_edge.runtime.stages import UNMEASURED, Stages


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """Receivers of the times and of the progress of one call."""

    stages: Stages = UNMEASURED
    """Collects the spans of the call's stages."""
    advance: Advance = no_advance
    """Function that is called with the number of pictures that were finished since its last call."""


UNMONITORED = Monitor()
"""Default of every call: times and progress are discarded."""
