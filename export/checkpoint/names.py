"""Translate the names of stored tensors to official names: remove wrappers' prefixes, convert other layouts."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from internvl_edge.export.models.families import FAMILIES
from internvl_edge.export.models.families.fields import listed
from internvl_edge.runtime.errors import CheckpointError

TOP_LEVEL = "top"
"""Value of `--state-dict` for the weights whose names have no prefix."""

_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module"
    r"|base_model\.model|base_layer|modules_to_save\.[^.]+)\."
)
"""Components that data parallelism, compilation, sharding and PEFT insert anywhere in names."""
_REPLACED = re.compile(r"(?:^|\.)original_module\.")
"""PEFT stores the untrained original of a module in ``modules_to_save`` under this name."""
_FIRST = re.compile(
    r"^(?P<prefix>.*?)(?:(?:model\.)?vision_tower\.embeddings\.cls_token"
    r"|(?:vision_model\.)?(?:embeddings\.class_embedding|cls_token))$"
)
"""Name of the class token in every layout; what precedes it is the prefix of all names of that set of weights."""

LANGUAGE_MODEL = "language_model."
"""Prefix of the official names of a language model's tensors."""
_OF_OTHERS = (r"^head\.", r"^llm_proj", r"^n_averaged$")
"""Patterns of tensors of other models, as of a classifier's head."""
_UNUSED = re.compile("|".join([*(pattern for family in FAMILIES for pattern in family.unused), *_OF_OTHERS]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """Rule that translates the names of a checkpoint to official names."""

    prefix: str
    others: tuple[str, ...]
    """Prefixes of the sets of weights that were not chosen."""
    vision_only: bool
    """Whether the file holds only a tower, with names that lack ``vision_model.``."""
    plain: bool
    """Whether names have the layout of the plain-PyTorch files."""
    language: bool = False
    """Whether the model has a language model with a graph; without one, its tensors are not needed."""

    def official(self, name: str) -> str:
        """Return the official name of the stored tensor `name`."""
        short = unwrapped(name).removeprefix(self.prefix)
        if self.vision_only:
            return short if self.is_unused(short) else f"vision_model.{short}"
        return next((found for family in FAMILIES if (found := family.official(short)) is not None), short)

    def is_unused(self, official: str) -> bool:
        """Return whether the tensor of this official name is known and not needed by any graph."""
        return is_unused(official, self.language)


def unwrapped(name: str) -> str:
    """Return `name` without the components that wrappers insert."""
    return _WRAPPERS.sub("", name)


def is_unused(official: str, language: bool) -> bool:
    """Return whether the tensor of this official name is known and not needed by any graph.

    `language` is whether the model has a language model with a graph.
    """
    return _UNUSED.search(official) is not None or (not language and official.startswith(LANGUAGE_MODEL))


def holds_a_tower(names: Iterable[str]) -> bool:
    """Return whether a tower's class token is among the names."""
    return any(_FIRST.match(name) for name in names)


def naming_of(names: Iterable[str], source: str, state_dict: str | None = None, language: bool = False) -> Naming:
    """Return the rule for the names of a checkpoint; `state_dict` chooses among several sets of weights.

    `language` is whether the model has a language model with a graph.

    Raises:
        CheckpointError: there are several sets and none is chosen, or the chosen one does not exist.
    """
    found = {match["prefix"]: name for name in map(unwrapped, names) if (match := _FIRST.match(name))}
    known = {prefix.removesuffix(".") or TOP_LEVEL: prefix for prefix in found}
    if state_dict is not None and unwrapped(f"{state_dict}.").removesuffix(".") not in {*known, ""}:
        raise CheckpointError(
            f"--state-dict {state_dict}: {source} has no weights of that name; it has {listed(known) or 'no tower'}"
        )
    if state_dict is not None:
        known = {state_dict: known[unwrapped(f"{state_dict}.").removesuffix(".") or TOP_LEVEL]}
    if len(known) > 1:
        raise CheckpointError(
            f"{source}: holds several sets of weights: {listed(sorted(known))}; choose one with --state-dict NAME"
        )
    prefix = next(iter(known.values()), "")
    first = found.get(prefix, "")
    return Naming(
        prefix=prefix,
        others=tuple(other for other in found if other != prefix),
        vision_only=first == f"{prefix}embeddings.class_embedding",
        plain=first == f"{prefix}cls_token",
        language=language,
    )


def official_names(names: Iterable[str], naming: Naming, source: str) -> dict[str, str]:
    """Return the official name of each stored name; names of other sets of weights are left out.

    Raises:
        CheckpointError: two stored names have the same official name.
    """
    renamed: dict[str, str] = {}
    owners: dict[str, str] = {}
    doubles = []
    for name in names:
        if _REPLACED.search(name) or _is_of_another_set(unwrapped(name), naming):
            continue
        official = renamed[name] = naming.official(name)
        if (other := owners.setdefault(official, name)) != name and not naming.is_unused(official):
            doubles.append(f"{other} and {name}")
    if doubles:
        raise CheckpointError(f"{source}: {listed(doubles)} stand for one tensor each; keep one of each")
    return renamed


def _is_of_another_set(name: str, naming: Naming) -> bool:
    """Return whether the longest prefix that `name` begins with belongs to another set of weights."""
    longest = max((prefix for prefix in naming.others if name.startswith(prefix)), key=len, default=None)
    if longest is None:
        return False
    return not (name.startswith(naming.prefix) and len(naming.prefix) > len(longest))
