"""Merge LoRA adapters in PEFT's layout into the weights; the merge happens when a weight is read (MODEL.md 2.3)."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from internvl_edge.export.checkpoint.config.adapter_config import ADAPTER_CONFIG, ROOTS, AdapterConfig
from internvl_edge.export.checkpoint.files.tensors import LazyTensor, MergedTensor
from internvl_edge.export.checkpoint.names import Naming, unwrapped
from internvl_edge.export.models.families.fields import listed
from internvl_edge.runtime.errors import CheckpointError

_HALF = re.compile(
    r"^(?P<module>.*)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.(?!weight$)(?P<adapter>[^.]+))?(\.weight)?$"
)
_OTHER_PARTS = re.compile(
    r"\.lora_(magnitude_vector|E|variant|router)|\.lora_[AB](\.[^.]+)?\.bias$|\.(vera|hada|oft|boft|lokr)_"
)
"""Tensors of adapters that are not the one product of two matrices that LoRA adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """Source of the factors of adapters: PEFT's own file, or the ranks in `config.json`."""

    config: AdapterConfig | None = None
    backbone_rank: int = 0
    """Rank that `config.json` names for the tower; the reference then merges with alpha = 2 x rank (MODEL.md 2.3)."""
    qllama_rank: int = 0

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of the adapter of `module`.

        Raises:
            CheckpointError: no file states the factor, or the stated rank differs from the tensor's.
        """
        if self.config is not None:
            return self.config.scale(module, rank)
        expected = self.qllama_rank if module.startswith("qllama.") else self.backbone_rank
        if not expected:
            raise CheckpointError(f"{module} is of unknown strength")
        if rank != expected:
            raise CheckpointError(f"{module} has rank {rank}, config.json says {expected}")
        return 2.0


def split_adapters(
    tensors: Mapping[str, LazyTensor], naming: Naming
) -> tuple[dict[str, LazyTensor], dict[str, LazyTensor]]:
    """Return the plain tensors, and the adapter tensors that the model needs.

    Raises:
        CheckpointError: an adapter is not plain LoRA.
    """
    parts = {name: tensor for name, tensor in tensors.items() if _HALF.match(name) or _OTHER_PARTS.search(name)}
    needed = {name: tensor for name, tensor in parts.items() if not naming.is_unused(name)}
    if strange := [name for name in needed if _OTHER_PARTS.search(name)]:
        raise CheckpointError(f"adapters: {listed(strange)} are no plain LoRA; merge them with PEFT")
    return {name: tensor for name, tensor in tensors.items() if name not in parts}, needed


def merged(
    plain: Mapping[str, LazyTensor], halves: Mapping[str, LazyTensor], strength: Strength
) -> dict[str, LazyTensor | MergedTensor]:
    """Return `plain` with the adapters of `halves` folded into their base weights.

    Raises:
        CheckpointError: adapters that lack a half, a base weight or a factor, all of them named.
    """
    pairs = _pairs(halves)
    alone = [module for module, sides in pairs.items() if set(sides) != {"A", "B"} or f"{module}.weight" not in plain]
    if alone:
        raise CheckpointError(f"LoRA adapters: incomplete at {listed(alone)}; merge them with PEFT or give all shards")
    result: dict[str, LazyTensor | MergedTensor] = dict(plain)
    findings = []
    for module, sides in pairs.items():
        name, down, up = f"{module}.weight", sides["A"], sides["B"]
        try:
            scale = strength.scale(module, down.shape[0] if down.shape else 0)
        except CheckpointError as error:
            findings.append(str(error))
            continue
        result[name] = MergedTensor(name=name, base=plain[name], down=down, up=up, scale=scale)
    if findings:
        raise CheckpointError(
            f"LoRA adapters: {'; '.join(findings[:8])}; put the {ADAPTER_CONFIG} that belongs to them beside the "
            "weights, set the rank in config.json (use_backbone_lora), or merge them with PEFT"
        )
    return result


def placed(adapter: Mapping[str, LazyTensor], base: Iterable[str], naming: Naming) -> dict[str, LazyTensor]:
    """Return the tensors of a separate adapter file under the model's official names.

    The file's names may be official or as `naming` describes, and relative to the whole model or to a part of it.

    Raises:
        CheckpointError: a name fits no weight of the model, or several.
    """
    known = {name.removesuffix(".weight") for name in base} | set(base)
    found: dict[str, LazyTensor] = {}
    lost, doubtful = [], []
    for name, tensor in adapter.items():
        short = unwrapped(name)
        module = match["module"] if (match := _HALF.match(short)) else _OTHER_PARTS.split(short)[0]
        forms = {f"{root}{form}" for root in ROOTS for form in (module, naming.official(module))}
        places = sorted(forms & known)
        if len(places) == 1:
            official = places[0] + short.removeprefix(module)
            found[official] = replace(tensor, name=official)
        elif places:
            doubtful.append(f"{module} ({' or '.join(places)})")
        elif naming.is_unused(short):
            found[short] = tensor
        else:
            lost.append(module)
    if lost or doubtful:
        said = [f"no weight for {listed(lost)}"] * bool(lost) + [f"unclear is {listed(doubtful)}"] * bool(doubtful)
        raise CheckpointError(f"adapter: {'; '.join(said)}; give the base weights that it belongs to")
    return found


def check_whole(config: AdapterConfig, adapter: Iterable[str], base: Iterable[str]) -> None:
    """Check that an adapter file holds tensors for every module that its config adapts or replaces.

    Raises:
        CheckpointError: with the names of the modules that the file lacks.
    """
    stored, known = set(adapter), set(base)
    adapted, weights = set(adapted_modules(stored)), {name.removesuffix(".weight") for name in known}
    lost = [target for target in config.targets if _ending(weights, target) and not _ending(adapted, target)]
    for target in config.saved:
        places = {name: _place(name, target) for name in known}
        begun = {place for name, place in places.items() if place is not None and name in stored}
        if begun:
            lost += sorted(name for name, place in places.items() if place in begun and name not in stored)
        elif any(places.values()):
            lost.append(target)
    if lost:
        raise CheckpointError(
            f"adapter: {ADAPTER_CONFIG} adapts or replaces {listed(lost)}, but there are no tensors of it; give the"
            " whole adapter"
        )


def adapted_modules(halves: Iterable[str]) -> Iterator[str]:
    """Yield the name of the adapted module for each half among the names."""
    for name in halves:
        if match := _HALF.match(name):
            yield match["module"]


def _ending(names: Iterable[str], end: str) -> bool:
    return any(name == end or name.endswith(f".{end}") for name in names)


def _place(name: str, module: str) -> str | None:
    """Return the full name of the module named `module` that holds tensor `name`, or None if there is none."""
    before, found, _ = f".{name}".partition(f".{module}.")
    return f"{before}{found}" if found else None


def _pairs(halves: Mapping[str, LazyTensor]) -> dict[str, dict[str, LazyTensor]]:
    """Return the halves A and B by module; those of an embedding are transposed to a linear's form.

    Raises:
        CheckpointError: a module has several adapters.
    """
    pairs: dict[str, dict[str, LazyTensor]] = {}
    names: dict[str, set[str]] = {}
    for name, tensor in halves.items():
        match = _HALF.match(name)
        assert match is not None
        module, side = match["module"], match["side"]
        names.setdefault(module, set()).add(match["adapter"] or "")
        if match["embedding"] and len(tensor.shape) == 2:
            tensor, side = tensor.transposed(), "A" if side == "B" else "B"
        pairs.setdefault(module, {})[side] = tensor
    if several := sorted({name for found in names.values() if len(found) > 1 for name in found}):
        raise CheckpointError(f"LoRA adapters: several ({listed(several)}); merge the one that is meant with PEFT")
    return pairs
