"""Kernel families: one plugin with its tensors, and the tiles for each device.

Plugins of TensorRT have no optional inputs, so a kernel with optional inputs has a family for each set of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from internvl_edge.export.plugins.launches import KERNEL_TYPES, Axis, Constant, Launch, Tensor
from internvl_edge.export.plugins.tensorrt_plugins import Plugin
from internvl_edge.export.plugins.tiling.tiles import Tiles, searched_tiles
from internvl_edge.export.plugins.tiling.tiles_model import Work
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.sms import FIRST_SMS, FIRST_TENSOR_CORE_SM

CODED = "_8bit"
"""Suffix of the names of plugins that take scales; their kernels read or write 8-bit codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Type and shape of an output, by those of the inputs."""

    name: str
    type: str
    """Name of an input with the same type, an attribute that names the type (``@out``), or a type (``=fp32``).

    ``@out:q`` is the attribute ``out`` if there is one, and else the type of input ``q``.
    """
    shape: tuple[str | int, ...] = ()
    """Names of sizes, numbers, or products of attributes and numbers, as ``heads*head_dim``."""
    alias: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One plugin: a kernel with a fixed set of tensors."""

    name: str
    kernel: str
    """File and function below `kernels`, for every SM below those in `later_kernels`."""
    later_kernels: Mapping[int, str] = field(hash=False, default_factory=dict)
    """First SM -> another kernel with the same tensors for this SM and later ones."""
    inputs: tuple[str, ...]
    sizes: Mapping[str, tuple[Axis, ...]] = field(hash=False)
    integers: tuple[str, ...]
    outputs: tuple[Output, ...]
    attributes: Mapping[str, str] = field(hash=False)
    """Attribute of a node -> the kernel's constant, as ``{"heads": "HEADS"}``."""
    fixed: Mapping[str, Constant] = field(hash=False, default_factory=dict)
    typed_by: str
    """Input whose type determines the products of the kernel, and the row of the table of tiles."""
    choices: tuple[Tiles, ...]
    """Tiles that the search tries; a single one is used without a search."""
    work: Callable[[Launch, Mapping[str, int]], Work]
    """Return the work of a launch at given sizes."""
    typical: tuple[Mapping[str, int], ...] = field(hash=False)
    """Sizes for which tiles are chosen."""
    variants: tuple[tuple[Mapping[str, str], Mapping[str, Constant]], ...] = field(hash=False)
    """Types of the inputs and attributes of each variant that the search covers."""
    grid_function: str = "grid"
    scales: tuple[str, ...] = ("q", "k", "v", "out")
    """Names of the tensors that the numbers in input `scales` belong to, in the order of the kernel."""
    products: bool = True
    """Whether it multiplies matrices, so that it needs tensor cores."""

    def key(self, types: Mapping[str, str], attributes: Mapping[str, Constant]) -> str:
        """Return the row in the table of tiles; bf16 has that of fp16, and both variants of a plugin have one."""
        kinds = [types[name].replace("bf16", "fp16") for name in self.inputs if name in self._tile_inputs()]
        width = attributes.get("head_dim", attributes.get("width", 0))
        return " ".join([self.name.removesuffix(CODED), "/".join(dict.fromkeys(kinds)), f"d{width}"])

    def kernel_on(self, sm: int) -> str:
        """Return the name of the kernel for `sm`."""
        first = max((other for other in self.later_kernels if other <= sm), default=None)
        return self.kernel if first is None else self.later_kernels[first]

    def launch(self, types: Mapping[str, str], attributes: Mapping[str, Constant], tiles: Tiles, sm: int = 0) -> Launch:
        """Return a launch of the kernel for `sm` with `tiles`; 0 is the kernel for every SM."""
        constants = {ours: attributes[name] for name, ours in self.attributes.items()}
        return Launch(
            plugin=self.name,
            kernel=self.kernel_on(sm),
            inputs=tuple(Tensor(name=name, type=types[name]) for name in self.inputs),
            sizes=self.sizes,
            integers=self.integers,
            outputs=tuple(_output(output, types, attributes) for output in self.outputs),
            constants={**self.fixed, **constants, **tiles.constants},
            warps=tiles.warps,
            stages=tiles.stages,
            grid_function=self.grid_function,
        )

    def launches(self, types: Mapping[str, str], attributes: Mapping[str, Constant], sm: int) -> Sequence[Launch]:
        """Return the launches for `sm`, the fastest by the model first; none if there is no kernel."""
        if missing := [name for name in self.attributes if name not in attributes]:
            raise EngineError(f"{self.name}: the node lacks {', '.join(missing)}")
        found = searched_tiles(self.key(types, attributes), sm) or (self.choices if len(self.choices) == 1 else ())
        return [self.launch(types, attributes, tiles, sm) for tiles in found]

    def refusal(self, types: Mapping[str, str], attributes: Mapping[str, Constant], sm: int) -> str:
        """Return the reason why no kernel supports the types and attributes on `sm`, or an empty text."""
        if sm < FIRST_TENSOR_CORE_SM:
            return f"sm_{sm}: Triton emits no tensor-core code for it"
        if sm < first_sm(types, attributes):
            return f"sm_{sm} has no FP8"
        kind = types[self.typed_by]
        listed = {variant[self.typed_by] for variant, _ in self.variants}
        if kind not in listed:
            return f"no kernel takes {kind}; {', '.join(sorted(listed))} are there"
        if not self.launches(types, attributes, sm):
            return f"no tiles were found for head dim {attributes.get('head_dim', '?')} on sm_{sm}"
        return ""

    def plugin(self) -> Plugin:
        """Return the family as a plugin of TensorRT."""
        names = tuple(output.name for output in self.outputs)
        types = tuple(types for types, _ in self.variants)
        return Plugin(name=self.name, inputs=self.inputs, outputs=names, launch=self.launches, types=types)

    def _tile_inputs(self) -> tuple[str, ...]:
        return tuple(name for name in self.inputs if name in (self.typed_by, "key_cache", "k"))


def first_sm(types: Mapping[str, str], attributes: Mapping[str, Constant]) -> int:
    """Return the first SM with the types of all inputs and of the output."""
    kinds = [KERNEL_TYPES.get(str(kind)) for kind in (*types.values(), attributes.get("out"))]
    return max(FIRST_SMS[kind.needs] if kind is not None else 0 for kind in kinds)


def _output(output: Output, types: Mapping[str, str], attributes: Mapping[str, Constant]) -> Tensor:
    if output.type.startswith("="):
        kind = output.type[1:]
    elif output.type.startswith("@"):
        name, _, otherwise = output.type[1:].partition(":")
        kind = str(attributes.get(name, types.get(otherwise, "")))
    else:
        kind = types[output.type]
    shape = tuple(_axis(axis, attributes) for axis in output.shape)
    return Tensor(name=output.name, type=kind, shape=shape, alias=output.alias)


def _axis(axis: str | int, attributes: Mapping[str, Constant]) -> str | int:
    if isinstance(axis, int):
        return axis
    factors = axis.split("*")
    if not all(factor in attributes or factor.isdigit() for factor in factors):
        return axis
    found = 1
    for factor in factors:
        found *= int(attributes.get(factor, factor))
    return found
