"""What is told about one call while it runs. It is passed with the call, so that calls of a shared model stay apart."""

from dataclasses import dataclass

from internvl_edge.runtime.progress import Advance, no_advance
from internvl_edge.runtime.stages import UNMEASURED, Stages


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """Takes the times of one call, and hears how far it is."""

    stages: Stages = UNMEASURED
    """Keeps where the time goes."""
    advance: Advance = no_advance
    """Is called with the number of pictures that are done since its last call."""


UNMONITORED = Monitor()
"""The default of every call: nothing is kept and nobody is told."""
