"""Time of launches on a GPU without that of the host: they are captured in a CUDA graph and replayed."""

from collections.abc import Callable
from statistics import median

_WARM_RUNS = 3
_LAUNCHES = 10
_REPLAYS = 30


def microseconds(run: Callable[[], object]) -> float:
    """Return the median time of `run`, which launches on the current stream, in a CUDA graph of several."""
    import torch

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _ in range(_WARM_RUNS):
            run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(_LAUNCHES):
                run()
        times = []
        for _ in range(_REPLAYS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record(stream)
            graph.replay()
            end.record(stream)
            stream.synchronize()
            times.append(start.elapsed_time(end) * 1000 / _LAUNCHES)
    return float(median(times))
