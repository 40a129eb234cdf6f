"""Run a torch module whose weights do not fit in memory: each block's weights come when it runs and go when it is done."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Fetch = Callable[[str], Tensor]
"""Returns the weight of a parameter's full name, in the type to compute in."""


@torch.no_grad()
def run_streamed(module: nn.Module, fetch: Fetch, *inputs: Tensor) -> list[Tensor]:
    """Return the outputs of `module` (built on the meta device) on `inputs`, holding one block of weights at a time."""
    with _streaming(module, fetch):
        outputs = module(*inputs)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


@contextmanager
def _streaming(module: nn.Module, fetch: Fetch) -> Iterator[None]:
    owned = _direct_tensors(module)
    _load(module, {name: fetch(name) for name in owned})
    handles = []
    for path, unit in units(module):
        handles.append(unit.register_forward_pre_hook(_loader(path, fetch)))
        handles.append(unit.register_forward_hook(_unloader()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        _load(module, {name: torch.empty(tensor.shape, device="meta") for name, tensor in owned.items()})


def units(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts whose weights are held together: every block of a `ModuleList`, every other part beside them."""
    for name, child in module.named_children():
        full = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList):
            yield from ((f"{full}.{index}", block) for index, block in enumerate(child))
        elif any(isinstance(part, nn.ModuleList) for part in child.modules()):
            yield from units(child, full)
        else:
            yield full, child


def _loader(path: str, fetch: Fetch) -> Callable[[nn.Module, object], None]:
    def load(unit: nn.Module, _: object) -> None:
        _load(unit, {name: fetch(f"{path}.{name}") for name, _ in _all_tensors(unit)})

    return load


def _unloader() -> Callable[[nn.Module, object, object], None]:
    def unload(unit: nn.Module, _: object, __: object) -> None:
        _load(unit, {name: torch.empty(tensor.shape, device="meta") for name, tensor in _all_tensors(unit)})

    return unload


def _all_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _direct_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors held by `module` and its containers themselves, outside of every unit."""
    inside = {f"{unit}.{name}" for unit, part in units(module) for name, _ in _all_tensors(part)}
    return {name: tensor for name, tensor in _all_tensors(module) if name not in inside}


def _load(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        if leaf in owner._buffers:
            owner._buffers[leaf] = value
        else:
            owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
