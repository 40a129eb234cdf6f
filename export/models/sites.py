"""List the sites of a model: linears that may be quantized, in the order of the forward."""

from internvl_edge.calib.sites import Site
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.families import FAMILIES


def model_sites(config: ModelConfig) -> list[Site]:
    """Return the sites of every part that the model has."""
    return [site for family in FAMILIES if config.find(family.kind) for site in family.sites(config)]


def block_of(site: Site) -> str:
    """Return the path of the block of `site`; for a head, its own path."""
    family = next(family for family in FAMILIES if family.owns(site.name))
    block = family.stack.path.format(site.block) if family.stack is not None else ""
    return block if site.name.startswith(f"{block}.") else site.name
