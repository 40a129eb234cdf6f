"""The whole model with the official parameter names; the config determines which parts exist."""

from torch import nn

from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.families import FAMILIES
from internvl_edge.export.models.internvit import InternVisionModel
from internvl_edge.export.models.language import LanguageModel
from internvl_edge.export.models.pool import AttentionPool
from internvl_edge.export.models.qllama import Qllama


class InternVLModel(nn.Module):
    """Container of the parts; forwards are in `graph_modules`. Build it on the meta device: it sets no weights."""

    vision_model: InternVisionModel
    clip_projector: AttentionPool
    qllama: Qllama
    text_projection: nn.Parameter
    logit_scale: nn.Parameter
    query_tokens: nn.Parameter
    clip_projector2: AttentionPool
    itm_head: nn.Linear
    mlp1: nn.Sequential
    language_model: LanguageModel

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        for family in FAMILIES:
            if config.find(family.kind) is not None:
                for name, module in family.modules(config).items():
                    setattr(self, name, module)
