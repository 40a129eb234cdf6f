"""Explain known messages of TensorRT: their cause and the next command; the message itself is always shown."""

import re
from dataclasses import dataclass

from internvl_edge.runtime.errors import one_line

_REBUILD = "internvl-edge build BUNDLE --target TARGET"
"""Command that builds plans again; current plans are kept, damaged ones and those for other devices are rebuilt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Cause of a message in the user's terms, and the command to run next."""

    cause: str
    next_command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A known kind of message; groups of `pattern` fill the placeholders of `cause`."""

    pattern: re.Pattern[str]
    cause: str
    next_command: str


def _known(pattern: str, cause: str, next_command: str) -> _Known:
    return _Known(pattern=re.compile(pattern, re.IGNORECASE), cause=cause, next_command=next_command)


_DEVICE_MEMORY = _known(
    r"out ?of ?memory|cudaErrorMemoryAllocation|requested amount of (gpu )?memory|device memory is insufficient"
    r"|insuff?icient memory on requested size|user allocator error allocating",
    "memory of the device ran out",
    f"{_REBUILD} --batch 1:1:1, or from a bundle of --precision int8",
)
_HOST_MEMORY = _known(r"bad_alloc", "memory of this machine ran out", f"{_REBUILD} --max-host-mem 6GiB")

_MESSAGES = (
    _known(
        r"which has compute capability (?P<here>[\d.]+)\. Supported compute capabilities: .*"
        r"TensorRT-RTX does not support this",
        "the device has compute capability {here}, which TensorRT-RTX does not run on; the standard TensorRT does",
        "internvl-edge build BUNDLE --target TARGET -o KIT, and on the device internvl-edge build KIT",
    ),
    _known(
        r"which has compute capability (?P<here>[\d.]+)\. Supported compute capabilities: (?P<plan>[\d. >]+\d)",
        "the plan is for compute capability {plan}, the device has {here}",
        _REBUILD,
    ),
    _known(
        r"incompatible device, expecting compute (?P<here>[\d.]+) got compute (?P<plan>[\d.]+)",
        "the plan is for compute capability {plan}, the device has {here}",
        _REBUILD,
    ),
    _known(
        r"expecting library version (?P<here>[\d.]+) got (?P<plan>[\d.]+)",
        "TensorRT {plan} built the plan, TensorRT {here} reads it",
        f"{_REBUILD}, with the TensorRT that will run it",
    ),
    _known(
        r"version tag does not match|not compatible with this version of TensorRT",
        "another version of TensorRT built the plan",
        f"{_REBUILD}, with the TensorRT that will run it",
    ),
    _known(
        r"magic ?tag|header does not conform to the expected format",
        "the file is no plan of this TensorRT: damaged, of another version, or of the other flavour (TensorRT, "
        "TensorRT-RTX)",
        _REBUILD,
    ),
    _known(
        r"header\.size == blobSize|bufferSize >= minBufferSize",
        "the plan is cut short, as by a copy that was interrupted",
        _REBUILD,
    ),
    _known(
        r"require hardware with (?P<type>\w+) support|HW-specific datatypes: (?P<code>\w+)",
        "the device has no units for {type}{code}",
        "internvl-edge targets, for those that have, or export --precision int8",
    ),
    _known(
        r"plugin not found|could not find plugin|cannot find plugin|getPluginCreator",
        "the graph holds an operation that this TensorRT knows only as a plugin, and no such plugin is loaded",
        f"{_REBUILD} --attention pattern",
    ),
    _known(
        r"no importer registered for op",
        "the graph holds an operation that this TensorRT's parser is too old for",
        f"{_REBUILD} --attention pattern",
    ),
    _known(
        r"error:? 35\b|cudaErrorInsufficientDriver|driver version is insufficient",
        "the NVIDIA driver is older than the CUDA of this TensorRT needs, or there is no driver",
        "internvl-edge doctor",
    ),
    _known(
        r"cuda initialization failure with error:? (?P<error>\d+)",
        "CUDA finds no usable GPU here (cudaError {error})",
        "internvl-edge doctor",
    ),
    _HOST_MEMORY,
    _DEVICE_MEMORY,
    _known(
        r"sufficient workspace memory|increasing the workspace size|workspace size is (too small|insufficient)",
        "the workspace limit leaves no room for the kernels",
        f"{_REBUILD} --batch 1:1:1",
    ),
    _known(
        r"(could not find any|no) implementation (found )?for node|no tactics to implement",
        "this TensorRT has no kernel for that part of the graph, in its types and shapes, on this device",
        f"{_REBUILD} --attention pattern",
    ),
)
"""Known messages; the first match is used.

Special ones come before general ones, and memory before a missing kernel, which lack of memory may cause.
"""


def explain(message: str) -> Explanation | None:
    """Return the explanation of `message`, or None if it is not known."""
    for known in _MESSAGES:
        if match := known.pattern.search(message):
            words = {name: value or "" for name, value in match.groupdict().items()}
            return Explanation(cause=known.cause.format(**words), next_command=known.next_command)
    return None


def explained(text: str) -> str:
    """Return `text` on one line, with cause and next command if it is known."""
    meaning = explain(text)
    line = one_line(text)
    return line if meaning is None else f"{line} [{meaning.cause}; next: {meaning.next_command}]"


def is_out_of_memory(message: str) -> bool:
    """Return whether `message` says that memory ran out."""
    return any(known.pattern.search(message) for known in (_HOST_MEMORY, _DEVICE_MEMORY))
