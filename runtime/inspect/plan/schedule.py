"""A plan's execution schedule: layers, tensors, memory regions, and steps in the order of execution."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from internvl_edge.runtime.inspect.plan.fields import Value, entries, fields, layer_names, many, number, one, section
from internvl_edge.runtime.inspect.plan.programs import PlanBytes

_ANY_ACCELERATOR = re.compile(r"^  accelerators=\{\*\}", re.MULTILINE)
"""Field in the header of a program that describes a runtime fusion; an engine's program names its SM there."""
_ENTRIES = re.compile(r"^  region = .*\n", re.MULTILINE)
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """The declaration of a tensor, or of a view of one."""

    name: str
    dims: tuple[int | str, ...]
    """Size of each axis; a string is the symbol of a size that is known at run time."""
    dtype: str
    region: str
    constant_bytes: int | None
    """Size of a constant's payload, otherwise None."""
    offset: str
    """Position of a constant's payload in its region; equal constants share one payload."""
    base: str | None
    """Tensor of which this is a view, otherwise None."""
    scratch: bool
    """Whether it is scratch memory of a kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A range of memory that tensors use one after the other."""

    name: str
    bytes: int
    type: str
    place: str
    constant: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a schedule."""

    kind: str
    """The plan's name of its kind, such as ``function``, ``fully_connected``, ``runtime_fusion`` or ``corrltn``."""
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    """Source ONNX nodes, whose names are module paths."""
    binary: int | None
    """Index of the program that describes a runtime fusion, otherwise None."""
    backbone: str
    """The plan's name of a fusion's main operation, such as ``gemm``; an empty string for other steps."""
    src: str
    """Value that a ``memset`` writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The program of an engine, or of one runtime fusion."""

    sm: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    regions: tuple[Region, ...]
    tensors: Mapping[str, Tensor]
    steps: tuple[Step, ...]
    shape_steps: tuple[Step, ...]
    """Host arithmetic that computes every symbolic size from the input shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The program of one optimization profile, with those of its runtime fusions."""

    program: Program
    fusions: tuple[Program, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanText:
    """The readable content of a plan."""

    path: Path
    bytes: int
    layers: tuple[str, ...]
    schedules: tuple[Schedule, ...]
    unreadable: tuple[str, ...]
    """Descriptions of the parts that were not found; empty for a plan that is fully understood."""

    @property
    def sm(self) -> int | None:
        """Return the compute capability of its schedules, or None if they do not name one."""
        return next((found.program.sm for found in self.schedules), None)


def read_plan(path: Path) -> PlanText:
    """Return the content of plan `path`; parts that cannot be read are named in ``unreadable``.

    Raises:
        EngineError: `path` is no plan.
    """
    engines: list[Program] = []
    fusions: list[list[Program]] = []
    unreadable: list[str] = []
    with PlanBytes(path) as plan:
        layers, size = plan.layers(), plan.size
        for index, text in enumerate(plan.texts()):
            program, findings = parse_program(text)
            unreadable += [f"program {index}: {finding}" for finding in findings]
            if not _ANY_ACCELERATOR.search(text):
                engines.append(program)
                fusions.append([])
            elif fusions:
                fusions[-1].append(program)
            else:
                unreadable.append(f"program {index}: a fusion in front of any schedule")
    if not engines:
        unreadable.append("no execution schedule: another format or version than TensorRT-RTX 1.7")
    if not layers:
        unreadable.append("no list of source layers")
    schedules = (Schedule(program=p, fusions=tuple(f)) for p, f in zip(engines, fusions, strict=True))
    return PlanText(path=path, bytes=size, layers=layers, schedules=tuple(schedules), unreadable=tuple(unreadable))


def parse_program(text: str) -> tuple[Program, tuple[str, ...]]:
    """Return the program of `text`, and descriptions of the parts that cannot be read."""
    found = {name: section(text, name) for name in ("header", "descriptors", "main", "shape_main")}
    body = {name: part[0] if part is not None else "" for name, part in found.items()}
    known = fields(_ENTRIES.sub("", body["header"]))
    tensors, findings = _tensors(body["descriptors"])
    steps, shape_steps = (
        tuple(_step(kind, pairs) for kind, pairs in entries(body[name])) for name in ("main", "shape_main")
    )
    findings += [f"no section {name}" for name, part in found.items() if part is None and name != "shape_main"]
    findings += [f"section {name} is cut off" for name, part in found.items() if part is not None and not part[1]]
    named = {name for step in steps for name in step.inputs + step.outputs} - tensors.keys()
    if named:
        findings.append(f"{len(named)} tensors of its steps are not declared, as {min(named)}")
    sm = re.fullmatch(r"sm(\d{2,3})", next(iter(many(known.get("accelerators"))), ""))
    program = Program(
        sm=int(sm[1]) if sm else None,
        inputs=many(known.get("inputs")),
        outputs=many(known.get("outputs")),
        regions=tuple(_regions(body["header"])),
        tensors=tensors,
        steps=steps,
        shape_steps=shape_steps,
    )
    return program, tuple(findings)


def _regions(header: str) -> Iterator[Region]:
    for kind, found in entries(header):
        size = number(found.get("size"))
        if kind == "region" and size is not None:
            yield Region(
                name=one(found.get("name")),
                bytes=size,
                type=one(found.get("type")),
                place=one(found.get("place")),
                constant=one(found.get("constant")) == "true",
            )


def _tensors(descriptors: str) -> tuple[dict[str, Tensor], list[str]]:
    tensors: dict[str, Tensor] = {}
    incomplete: list[str] = []
    for kind, found in entries(descriptors):
        name, dtype = one(found.get("name")), one(found.get("type"))
        if kind not in ("tensor", "sub_tensor"):
            continue
        if not name or not dtype or not isinstance(found.get("dims"), tuple):
            incomplete.append(name or "one without a name")
            continue
        tensors[name] = Tensor(
            name=name,
            dims=tuple(int(dim) if _NUMBER.fullmatch(dim) else dim for dim in many(found["dims"])),
            dtype=dtype,
            region=one(found.get("region")),
            constant_bytes=number(found.get("const_payload_size")),
            offset=one(found.get("offset")),
            base=one(found.get("base")) or None,
            scratch=one(found.get("is_scratchspace")) == "1",
        )
    lacking = f"tensor declarations: {len(incomplete)} lack name, type or dims, as {next(iter(incomplete), '')}"
    return tensors, [lacking] if incomplete else []


def _step(kind: str, found: Mapping[str, Value]) -> Step:
    return Step(
        kind=kind,
        name=one(found.get("name")),
        inputs=many(found.get("input_args", found.get("input"))),
        outputs=many(found.get("output_args", found.get("output"))),
        layers=layer_names(found.get("layers")),
        binary=number(found.get("binary")),
        backbone=one(found.get("backbone")),
        src=one(found.get("src")),
    )
