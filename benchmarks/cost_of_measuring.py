"""Time that measuring adds to a call of a session that does nothing: called directly, unmeasured and measured.

python benchmarks/cost_of_measuring.py
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from internvl_edge.runtime.latency.measure.streams import timed_call
from internvl_edge.runtime.stages import COMPUTE, DEVICE_TO_HOST, ENQUEUE, HOST_TO_DEVICE, UNMEASURED, Stages

CALLS, ROUNDS = 2000, 15


class NullSession:
    """Session that does nothing, within the spans of a device's backend or without spans."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = stages

    def run(self, inputs: Mapping[str, np.ndarray], stages: Stages = UNMEASURED) -> dict[str, np.ndarray]:
        """Run the empty stages."""
        for stage in self._stages:
            with stages.stage(stage, "graph"):
                pass
        return {}


def microseconds(call: Callable[[], object]) -> float:
    """Return the median over rounds of one call's time."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        for _ in range(CALLS):
            call()
        rounds.append((time.perf_counter_ns() - start) / CALLS / 1e3)
    return statistics.median(rounds)


def main() -> None:
    """Print a row for each number of spans."""
    print(f"{'spans a call':<14}{'bare µs':>10}{'unmeasured µs':>16}{'measured µs':>14}")
    bare = NullSession(())
    for stages in ((COMPUTE,), (HOST_TO_DEVICE, ENQUEUE, COMPUTE, DEVICE_TO_HOST)):
        session = NullSession(stages)
        times = (
            microseconds(lambda: bare.run({})),
            microseconds(lambda session=session: session.run({})),  # type: ignore[misc]
            microseconds(lambda session=session: timed_call(lambda kept: session.run({}, kept))),  # type: ignore[misc]
        )
        print(f"{len(stages):<14}{times[0]:>10.2f}{times[1]:>16.2f}{times[2]:>14.2f}")


if __name__ == "__main__":
    main()
