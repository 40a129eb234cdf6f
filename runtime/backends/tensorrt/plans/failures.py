"""Turn failures of TensorRT into errors of one line; TensorRT returns nothing and writes the reason to its logger."""

import re

from internvl_edge.runtime.backends.tensorrt.plans.library import Library
from internvl_edge.runtime.backends.tensorrt_module import message_line
from internvl_edge.runtime.errors import BackendError

_NO_MEMORY = re.compile(r"out ?of ?memory", re.IGNORECASE)


def out_of_memory(graph: str) -> BackendError:
    """Return the error for a graph that needs more memory than the device has free."""
    return BackendError(
        f"graph {graph}: the device is out of memory; lower the batch, the beams or the streams, or close what else "
        "runs on it"
    )


def refusal(graph: str, what: str, library: Library, remedy: str) -> BackendError:
    """Return the error for something that `library` has just refused, with the first reason that it logged."""
    reasons = [message_line(error) for error in library.errors]
    if any(_NO_MEMORY.search(reason) for reason in reasons):
        return out_of_memory(graph)
    reason = reasons[0] if reasons else "no reason given"
    return BackendError(f"graph {graph}: {library.flavour} {library.version} {what} ({reason}); {remedy}")
