"""The kernel launches of a schedule, with their category and the block of the model to which they belong."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from internvl_edge.runtime.inspect.plan.schedule import Program, Schedule, Step

_BOOKKEEPING = frozenset({"signal", "wait", "shape_call", "reshape", "assert"})
"""Kinds of steps that run nothing on the device: synchronization, host arithmetic and views."""
_ATTENTION = re.compile(r"ge[mv][mv]_mha|fmha")
"""Names of attention kernels: ``_gemm_mha_v2`` for many query rows, ``_gemv_mha_v1`` for one."""
_VECTOR_PRODUCT = re.compile(r"^__myl_\w*MulSum")
"""Name of a product with one row, a generated kernel that multiplies and sums."""
_OPERATION = re.compile(r"[A-Z][a-z0-9]*")
_BLOCK = re.compile(r"^(.*?(?:layers|blocks)[./]\d+)(?:[./]|$)")
_LAYOUT = frozenset({"Resh", "Tran", "Move", "Slic", "Spli", "Conc", "Repl", "Cast"})
"""Operations that move values and compute nothing, as kernels' names abbreviate them."""

CATEGORIES = ("matmul", "convolution", "attention", "norm", "gather", "layout", "elementwise", "copy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One kernel launch."""

    index: int
    """Position in the order of launches."""
    step: Step
    category: str
    """One of `CATEGORIES`."""
    operations: tuple[str, ...]
    """Fused operations as the kernel's name abbreviates them; empty for a kernel of the library."""
    block: str
    """Module path of its block, such as ``vision_model.encoder.layers.3``; empty outside of blocks."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Return the module paths of its source nodes, each once."""
        return tuple(dict.fromkeys(layer.split("/")[0] or layer for layer in self.step.layers))


@dataclass(frozen=True, slots=True, kw_only=True)
class MiddleBlock:
    """A typical inner block of the longest tower, and the numbers of launches of all inner blocks."""

    name: str
    launches: int
    """Most frequent number of launches of an inner block."""
    least: int
    """Smallest number of launches of an inner block."""
    most: int
    """Largest number of launches of an inner block."""


def launches_of(schedule: Schedule) -> tuple[Launch, ...]:
    """Return the kernel launches of `schedule`, in order."""
    steps = [step for step in schedule.program.steps if is_launch(step, schedule.program)]
    blocks = _within([_block(step) for step in steps])
    return tuple(
        Launch(
            index=index,
            step=step,
            category=_category(step, schedule),
            operations=operations_of(step.name),
            block=block,
        )
        for index, (step, block) in enumerate(zip(steps, blocks, strict=True))
    )


def is_launch(step: Step, program: Program) -> bool:
    """Return whether `step` runs on the device: it writes device memory, and is not among `_BOOKKEEPING`."""
    return step.kind not in _BOOKKEEPING and any(on_device(name, program) for name in step.outputs)


def on_device(name: str, program: Program) -> bool:
    """Return whether tensor `name` is in device memory; an undeclared name is a number on the host."""
    tensor = program.tensors.get(name)
    if tensor is None or tensor.base == name:
        return False
    if tensor.base is not None:
        return on_device(tensor.base, program) if program.tensors.get(tensor.base) is not tensor else False
    return not any(region.name == tensor.region and region.place == "host" for region in program.regions)


def operations_of(name: str) -> tuple[str, ...]:
    """Return the operations in a generated kernel's name, such as ``Cast``, ``Mul``, ``Mean``."""
    return tuple(_OPERATION.findall(name.removeprefix("__myl_"))) if name.startswith("__myl_") else ()


def fusion_of(step: Step, schedule: Schedule) -> Program | None:
    """Return the program that describes a runtime fusion, or None if there is no matching one."""
    if step.kind != "runtime_fusion" or step.binary is None or step.binary >= len(schedule.fusions):
        return None
    program = schedule.fusions[step.binary]
    same = (len(program.inputs), len(program.outputs)) == (len(step.inputs), len(step.outputs))
    return program if same else None


def launches_per_block(launches: Sequence[Launch]) -> dict[str, int]:
    """Return the number of launches of each block, in the order of execution; "" holds those outside of blocks."""
    return dict(Counter(launch.block for launch in launches))


def middle_block(launches: Sequence[Launch]) -> MiddleBlock | None:
    """Return a typical inner block of the longest tower, or None if no tower has one."""
    towers: dict[str, list[str]] = {}
    for block in launches_per_block(launches):
        if block:
            towers.setdefault(re.sub(r"\d+$", "", block), []).append(block)
    blocks = max(towers.values(), key=len, default=[])
    inner = sorted(blocks, key=_number)[1:-1]
    if not inner:
        return None
    counts = {block: launches_per_block(launches)[block] for block in inner}
    usual = Counter(counts.values()).most_common(1)[0][0]
    candidates = [block for block in inner if counts[block] == usual]
    return MiddleBlock(
        name=candidates[len(candidates) // 2], launches=usual, least=min(counts.values()), most=max(counts.values())
    )


def _category(step: Step, schedule: Schedule) -> str:
    operations = set(operations_of(step.name))
    if _ATTENTION.search(step.name):
        return "attention"
    if step.kind == "corrltn" or step.backbone.startswith("conv"):
        return "convolution"
    if step.kind == "fully_connected" or step.backbone == "gemm":
        return "matmul"
    if step.kind in ("copy", "memset"):
        return "copy"
    described = fusion_of(step, schedule)
    if described is not None and any(inner.kind == "fully_connected" for inner in described.steps):
        return "matmul"
    if _VECTOR_PRODUCT.search(step.name) and any(_is_matrix(name, schedule.program) for name in step.inputs):
        return "matmul"
    if "Mean" in operations:
        return "norm"
    if "Gath" in operations:
        return "gather"
    return "layout" if operations and operations <= _LAYOUT else "elementwise"


def _is_matrix(name: str, program: Program) -> bool:
    tensor = program.tensors.get(name)
    return tensor is not None and tensor.constant_bytes is not None and sum(dim != 1 for dim in tensor.dims) > 1


def _block(step: Step) -> str:
    """Return the block of most of the step's nodes, or the first such block; "" if most are outside of blocks.

    Nodes without a module path, which TensorRT or a rewrite made, are not counted.
    """
    paths = [layer for layer in step.layers if "." in layer or "/" in layer]
    found = Counter(match[1] for match in map(_BLOCK.match, paths) if match is not None)
    if not found or sum(found.values()) * 2 < len(paths):
        return ""
    return min(found, key=lambda block: (-found[block], _number(block)))


def _within(blocks: Sequence[str]) -> list[str]:
    """Return the blocks, with a launch between two launches of one block assigned to that block.

    A value that several blocks share is computed once, by the first, but may be named after another block: for example
    the statistics of the vision states, which every cross-attention normalizes.
    """
    framed = ["", *blocks, ""]
    trios = zip(framed, framed[1:], framed[2:], strict=False)
    return [before if before and before == after else block for before, block, after in trios]


def _number(block: str) -> int:
    digits = re.search(r"(\d{1,9})$", block)
    return int(digits[1]) if digits else 0
