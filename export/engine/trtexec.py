"""Write the trtexec command that builds the same plan as `build`, for TensorRT 10.x and 11.x."""

import shlex
from collections.abc import Iterator, Sequence

from internvl_edge.runtime.bundle.engines import Profile

_SHAPES = ("minShapes", "optShapes", "maxShapes")


def trtexec_line(
    onnx_file: str, plan_file: str, profiles: Sequence[Profile], *, major: int, workspace_bytes: int | None = None
) -> str:
    """Return the command for TensorRT of version `major`.

    Networks of 10.x are strongly typed only with ``--stronglyTyped``; those of 11.x always are.
    """
    words = [
        "trtexec",
        f"--onnx={onnx_file}",
        f"--saveEngine={plan_file}",
        "--skipInference",
        "--profilingVerbosity=detailed",
    ]
    if major < 11:
        words.append("--stronglyTyped")
    if workspace_bytes is not None:
        words.append(f"--memPoolSize=workspace:{workspace_bytes >> 20}M")
    for number, profile in enumerate(profiles):
        if len(profiles) > 1:
            words.append(f"--profile={number}")
        words += _shapes(profile)
    return shlex.join(words)


def _shapes(profile: Profile) -> Iterator[str]:
    for which, flag in enumerate(_SHAPES):
        listed = ",".join(f"{name}:{'x'.join(map(str, shapes[which]))}" for name, shapes in sorted(profile.items()))
        if listed:
            yield f"--{flag}={listed}"
