"""Run a torch module larger than memory: hooks load the weights of each block before it runs and unload them after."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from internvl_edge.calib.heap import trim_heap
from internvl_edge.export.blockwise.large_matrices import forward_by_rows, large_matrix

Fetch = Callable[..., None]
"""Function that fills a tensor with the weight of a full parameter name.

A third argument, which only a `large_matrix` needs, is the number of values that precede those of the tensor.
"""

Change = Callable[[Tensor], Tensor]


@torch.no_grad()
def run_streamed(
    module: nn.Module, fetch: Fetch, *inputs: Tensor, changed: Mapping[str, Change] | None = None
) -> list[Tensor]:
    """Return the outputs of `module`, which is on the meta device; the weights of one block are in memory at a time.

    `changed` maps the path of a part to a function for its first input, such as fake quantization.
    """
    handles = []
    for path, part in module.named_modules():
        if changed is not None and path in changed:
            handles.append(part.register_forward_pre_hook(_changing(changed[path])))
    try:
        with _streaming(module, fetch):
            outputs = module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _changing(change: Change) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    return lambda _, inputs: (change(inputs[0]), *inputs[1:])


@contextmanager
def _streaming(module: nn.Module, fetch: Fetch) -> Iterator[None]:
    handles, replaced = [], []
    for group in groups(module):
        loader = Loader(fetch)
        for path, unit in group:
            if large_matrix(unit):
                replaced.append(unit)
                unit.forward = forward_by_rows(unit, path, fetch)
                continue
            handles.append(unit.register_forward_pre_hook(_before(loader, path)))
            handles.append(unit.register_forward_hook(_after(loader)))
        handles.append(group[-1][1].register_forward_hook(_at_last(loader)))
    own = _OwnTensors(module)
    own.load(fetch)
    try:
        yield
    finally:
        own.unload()
        for handle in handles:
            handle.remove()
        for unit in replaced:
            del unit.forward


def groups(module: nn.Module, path: str = "") -> Iterator[list[tuple[str, nn.Module]]]:
    """Yield groups of parts of `module`, as (path, part); the parts of a group are loaded one at a time.

    The blocks of a `ModuleList` are one group and share a set of buffers, since new memory for each block would cost
    page faults and fragment the heap. Every other part is a group of its own.
    """
    for name, child in module.named_children():
        full = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList):
            yield [(f"{full}.{index}", block) for index, block in enumerate(child)]
        elif any(isinstance(part, nn.ModuleList) for part in child.modules()):
            yield from groups(child, full)
        else:
            yield [(full, child)]


class Loader:
    """Loader of weights into parts of a module on the meta device; tensors of equal name and shape share memory."""

    def __init__(self, fetch: Fetch, matrix_dtype: torch.dtype = torch.float32) -> None:
        self._fetch = fetch
        self._matrix_dtype = matrix_dtype
        self._buffers: dict[tuple[str, torch.Size], Tensor] = {}

    def load(self, path: str, unit: nn.Module) -> None:
        """Load the tensors of `unit`, whose full name is `path`; matrices are in `matrix_dtype`, others in fp32."""
        for name, tensor in _tensors(unit):
            key = name, tensor.shape
            if key not in self._buffers:
                dtype = self._matrix_dtype if tensor.ndim == 2 else torch.float32
                self._buffers[key] = torch.empty(tensor.shape, dtype=dtype)
            self._fetch(f"{path}.{name}" if path else name, self._buffers[key])
            _put(unit, name, self._buffers[key])

    def unload(self, unit: nn.Module) -> None:
        """Put the tensors of `unit` back on the meta device."""
        for name, tensor in _tensors(unit):
            _put(unit, name, torch.empty(tensor.shape, device="meta"))
        trim_heap()

    def free(self) -> None:
        """Release the buffers."""
        self._buffers.clear()


class _OwnTensors:
    """The few tensors of `module` outside of all groups: they are loaded for the whole run."""

    def __init__(self, module: nn.Module) -> None:
        parts = [part for group in groups(module) for part in group]
        inside = {f"{path}.{name}" for path, unit in parts for name, _ in _tensors(unit)}
        self._module = module
        self._shapes = {name: tensor.shape for name, tensor in _tensors(module) if name not in inside}

    def load(self, fetch: Fetch) -> None:
        for name, shape in self._shapes.items():
            value = torch.empty(shape)
            fetch(name, value)
            _put(self._module, name, value)

    def unload(self) -> None:
        for name, shape in self._shapes.items():
            _put(self._module, name, torch.empty(shape, device="meta"))


def _before(loader: Loader, path: str) -> Callable[[nn.Module, object], None]:
    return lambda unit, _: loader.load(path, unit)


def _after(loader: Loader) -> Callable[[nn.Module, object, object], None]:
    return lambda unit, _, __: loader.unload(unit)


def _at_last(loader: Loader) -> Callable[[nn.Module, object, object], None]:
    return lambda _, __, ___: loader.free()


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._buffers:
        owner._buffers[leaf] = value
    else:
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
