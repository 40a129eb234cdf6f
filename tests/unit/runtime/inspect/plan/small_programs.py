"""Programs of a few tensors and steps, as a plan's text would give them."""

from collections.abc import Iterable, Mapping

from internvl_edge.runtime.inspect.plan.launches import Launch
from internvl_edge.runtime.inspect.plan.schedule import Program, Schedule, Step, Tensor
from internvl_edge.runtime.inspect.plan.symbols import Sizes

NOTHING = Sizes(values={}, shapes={}, assumed=())


def tensor(dims: Iterable[int | str], dtype: str = "half", constant_bytes: int | None = None, base: str = "") -> Tensor:
    return Tensor(
        name="",
        dims=tuple(dims),
        dtype=dtype,
        region="r",
        constant_bytes=constant_bytes,
        offset="",
        base=base or None,
        scratch=False,
    )


def step(kind: str, inputs: str, outputs: str, layers: str = "", name: str = "", binary: int | None = None) -> Step:
    """Names are separated by blanks."""
    return Step(
        kind=kind,
        name=name or kind,
        inputs=tuple(inputs.split()),
        outputs=tuple(outputs.split()),
        layers=tuple(layers.split()),
        binary=binary,
        backbone="",
        src="",
    )


def program(
    tensors: Mapping[str, Tensor],
    steps: Iterable[Step] = (),
    shape_steps: Iterable[Step] = (),
    inputs: str = "",
    outputs: str = "",
) -> Program:
    return Program(
        sm=89,
        inputs=tuple(inputs.split()),
        outputs=tuple(outputs.split()),
        regions=(),
        tensors=tensors,
        steps=tuple(steps),
        shape_steps=tuple(shape_steps),
    )


def schedule(whole: Program, *fusions: Program) -> Schedule:
    return Schedule(program=whole, fusions=fusions)


def launch(of: Step, category: str, operations: str = "", index: int = 0) -> Launch:
    return Launch(index=index, step=of, category=category, operations=tuple(operations.split()), block="")
