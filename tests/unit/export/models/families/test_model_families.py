"""Families share a model's tensors, blocks and sites among them: each belongs to one, and none is left over."""

from pathlib import Path

import pytest
import torch
from torch import nn

from internvl_edge.export.blockwise.sources import stored_shapes
from internvl_edge.export.checkpoint import Checkpoint, open_checkpoint
from internvl_edge.export.models.families import FAMILIES
from internvl_edge.export.models.families.family import Family
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.sites import block_of, model_sites

FOLDERS = (
    "case_a_internvl14b/checkpoint",
    "case_a_internvl14b/checkpoint_sharded",
    "case_a_internvl14b/checkpoint_bin",
    "case_b_internvit300m/checkpoint_vit",
    "case_b_internvit300m/checkpoint_chat",
)


@pytest.fixture(params=FOLDERS)
def checkpoint(golden_a: Path, request: pytest.FixtureRequest) -> Checkpoint:
    """One recorded checkpoint after the other."""
    return open_checkpoint(golden_a.parent / request.param)


def built(checkpoint: Checkpoint) -> InternVLModel:
    with torch.device("meta"):
        return InternVLModel(checkpoint.config)


def present(checkpoint: Checkpoint) -> list[Family]:
    return [family for family in FAMILIES if checkpoint.config.find(family.kind) is not None]


def test_every_tensor_belongs_to_one_family_that_the_model_has(checkpoint: Checkpoint) -> None:
    owners = {name: [family.name for family in FAMILIES if family.owns(name)] for name in checkpoint.tensors}
    assert {name: found for name, found in owners.items() if len(found) != 1} == {}
    assert {found[0] for found in owners.values()} == {family.name for family in present(checkpoint)}


def test_modules_have_exactly_the_tensors_of_the_checkpoint(checkpoint: Checkpoint) -> None:
    assert stored_shapes(checkpoint.config) == {name: value.shape for name, value in checkpoint.tensors.items()}


def test_a_family_makes_the_tensors_that_it_owns(checkpoint: Checkpoint) -> None:
    for family in present(checkpoint):
        with torch.device("meta"):
            assert set(family.modules(checkpoint.config)) <= set(family.tensors)


def test_sites_are_all_linears_of_the_blocks_and_the_head(checkpoint: Checkpoint) -> None:
    modules = {name: module for name, module in built(checkpoint).named_modules() if isinstance(module, nn.Linear)}
    sites = model_sites(checkpoint.config)
    for site in sites:
        assert [modules[path].in_features for path in site.linears] == [site.channels] * len(site.linears)
    blocks = tuple(family.stack.path.format("") for family in FAMILIES if family.stack is not None)
    wanted = {name for name in modules if name.startswith((*blocks, "qllama.lm_head"))}
    found = [path for site in sites for path in site.linears]
    assert set(found) == wanted
    assert len(found) == len(wanted)


def test_what_is_folded_is_stored(checkpoint: Checkpoint) -> None:
    for site in model_sites(checkpoint.config):
        fold = site.fold
        folded = [*getattr(fold, "parameters", ()), getattr(fold, "weight", None), getattr(fold, "bias", None)]
        assert [
            name for name in [*folded, site.layer_scale] if name is not None and name not in checkpoint.tensors
        ] == []


def test_the_block_of_a_site_holds_it_and_a_head_is_its_own(checkpoint: Checkpoint) -> None:
    modules = dict(built(checkpoint).named_modules())
    for site in model_sites(checkpoint.config):
        block = block_of(site)
        assert block in modules
        assert site.name == block == "qllama.lm_head" or site.name.startswith(f"{block}.")


def test_no_name_is_of_two_families() -> None:
    owned = [name for family in FAMILIES for name in family.tensors]
    assert len(owned) == len(set(owned))
    assert len({family.kind for family in FAMILIES}) == len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_a_model_has_at_most_one_part_of_a_kind(checkpoint: Checkpoint) -> None:
    kinds = [type(part) for part in checkpoint.config.parts]
    assert kinds[0] is FAMILIES[0].kind
    assert len(kinds) == len(set(kinds))
    assert len(kinds) == len(present(checkpoint))


def test_a_part_that_is_not_there_is_named(golden_b: Path) -> None:
    config = open_checkpoint(golden_b / "checkpoint_vit").config
    with pytest.raises(LookupError, match="internvit has no QllamaConfig"):
        config.need(FAMILIES[1].kind)
