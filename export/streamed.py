"""Run a torch module larger than memory: each block's weights come when it runs and go when it is done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from internvl_edge.export.heap import trim_heap

Fetch = Callable[[str, Tensor], None]
"""Fills a tensor with the weight of a parameter's full name."""

_Buffers = dict[tuple[str, torch.Size], Tensor]
"""Memory for the weights of a part, by name within it and shape."""


@torch.no_grad()
def run_streamed(module: nn.Module, fetch: Fetch, *inputs: Tensor) -> list[Tensor]:
    """Return the outputs of `module` (built on the meta device) on `inputs`, holding one block of weights at a time."""
    with _streaming(module, fetch):
        outputs = module(*inputs)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


@contextmanager
def _streaming(module: nn.Module, fetch: Fetch) -> Iterator[None]:
    handles = []
    for group in groups(module):
        buffers: _Buffers = {}
        for path, unit in group:
            handles.append(unit.register_forward_pre_hook(_loader(path, fetch, buffers)))
            handles.append(unit.register_forward_hook(_unload))
        handles.append(group[-1][1].register_forward_hook(_freer(buffers)))
    own = _Own(module)
    own.load(fetch)
    try:
        yield
    finally:
        own.unload()
        for handle in handles:
            handle.remove()


def groups(module: nn.Module, path: str = "") -> Iterator[list[tuple[str, nn.Module]]]:
    """Yield the parts of `module` that are loaded one at a time, in groups that run one after the other.

    The blocks of a `ModuleList` are a group: they share one set of buffers, since fresh memory for each would cost page
    faults and fragment the heap. Every other part is a group of its own.
    """
    for name, child in module.named_children():
        full = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList):
            yield [(f"{full}.{index}", block) for index, block in enumerate(child)]
        elif any(isinstance(part, nn.ModuleList) for part in child.modules()):
            yield from groups(child, full)
        else:
            yield [(full, child)]


class _Own:
    """The few tensors that `module` and its containers hold outside of every unit: loaded for the whole run."""

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


def _loader(path: str, fetch: Fetch, buffers: _Buffers) -> Callable[[nn.Module, object], None]:
    def load(unit: nn.Module, _: object) -> None:
        for name, tensor in _tensors(unit):
            key = name, tensor.shape
            if key not in buffers:
                buffers[key] = torch.empty(tensor.shape)
            fetch(f"{path}.{name}", buffers[key])
            _put(unit, name, buffers[key])

    return load


def _freer(buffers: _Buffers) -> Callable[[nn.Module, object, object], None]:
    def free(_: nn.Module, __: object, ___: object) -> None:
        buffers.clear()

    return free


def _unload(unit: nn.Module, _: object, __: object) -> None:
    for name, tensor in _tensors(unit):
        _put(unit, name, torch.empty(tensor.shape, device="meta"))
    trim_heap()


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._buffers:
        owner._buffers[leaf] = value
    else:
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
