"""Metadata, configuration and statistics of the server and its models, the same over HTTP and gRPC."""

from functools import cache
from typing import Any

from internvl_edge.runtime.serve.observe.histogram import Histogram
from internvl_edge.runtime.serve.observe.record import Record
from internvl_edge.runtime.serve.protocol.checks import VERSION
from internvl_edge.runtime.serve.signature import Signature, Tensor
from internvl_edge.runtime.stages import COMPUTE, DECODE_IMAGE, POSTPROCESS, PREPROCESS, TOKENIZE

NAME = "internvl-edge"
PLATFORM = "internvl_edge"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics")
_PARTS = {
    "queue": ("queue",),
    "compute_input": (DECODE_IMAGE, PREPROCESS, TOKENIZE),
    "compute_infer": (COMPUTE,),
    "compute_output": (POSTPROCESS,),
}
"""Triton's name of a part of the work -> our stages of which it consists."""


def server_metadata() -> dict[str, Any]:
    """Return the server's name, version and protocol extensions."""
    return {"name": NAME, "version": server_version(), "extensions": list(EXTENSIONS)}


@cache
def server_version() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import version

    return version("internvl-edge")


def model_metadata(signature: Signature) -> dict[str, Any]:
    """Return the names, types and shapes of a model's inputs and outputs."""
    return {
        "name": signature.name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [_tensor(tensor) for tensor in signature.inputs],
        "outputs": [_tensor(tensor) for tensor in signature.outputs],
    }


def model_config(signature: Signature, max_batch: int) -> dict[str, Any]:
    """Return the part of Triton's model configuration that clients read to plan their load.

    The shapes of models whose requests are joined lack axis 0. Shapes may not be empty, so models with lists of texts
    are described as not joined.
    """
    tensors = (*signature.inputs, *signature.outputs)
    joined = signature.batched and all(len(tensor.shape) > 1 for tensor in tensors)
    return {
        "name": signature.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": max_batch if joined else 0,
        "input": [{**_configured(tensor, joined), "optional": tensor.optional} for tensor in signature.inputs],
        "output": [_configured(tensor, joined) for tensor in signature.outputs],
        **({"dynamic_batching": {}} if joined else {}),
        "model_transaction_policy": {"decoupled": False},
    }


def model_statistics(record: Record, signature: Signature) -> dict[str, Any]:
    """Return a model's statistics in Triton's form: counts and sums of times since the start.

    As in Triton, the whole time of a batch is counted for each of its requests.
    """
    name = signature.name
    batches = record.batches.get(name)
    answered, failed = (times.get(name, Histogram()) for times in (record.latency, record.failed))
    return {
        "name": name,
        "version": VERSION,
        "last_inference": record.last_answer_ms.get(name, 0),
        "inference_count": record.rows[name],
        "execution_count": batches.count if batches else 0,
        "inference_stats": {
            "success": _duration(answered.count, answered.sum),
            "fail": _duration(failed.count, failed.sum),
            **{part: _duration(answered.count, _request_s(record, name, part)) for part in _PARTS},
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
    }


def repository_index(names: list[str], ready: bool, only_ready: bool = False) -> list[dict[str, str]]:
    """Return every model with its state; with `only_ready`, ready models alone."""
    if only_ready and not ready:
        return []
    state = "READY" if ready else "UNAVAILABLE"
    return [{"name": name, "version": VERSION, "state": state, "reason": ""} for name in names]


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _configured(tensor: Tensor, joined: bool) -> dict[str, Any]:
    datatype = "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    return {"name": tensor.name, "data_type": datatype, "dims": list(tensor.shape[joined:])}


def _request_s(record: Record, model: str, part: str) -> float:
    return sum(record.request_seconds.get((model, stage), 0.0) for stage in _PARTS[part])


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * 1e9)}
