"""InternLM3: LLaMA's keys, a head size of its own, and biases by two fields (CHAT.md 1)."""

from internvl_edge.export.models.families.fields import Honoured, flag, only
from internvl_edge.export.models.families.language.family import LanguageFamily

INTERNLM3 = LanguageFamily(
    name="internlm3",
    architecture="InternLM3ForCausalLM",
    defaults={"qkv_bias": False},
    fields={
        "qkv_bias": Honoured("qkv_bias", flag),
        "bias": only(False, finding="adds biases that the graphs have not"),
    },
    rope_types=("dynamic",),
    switches=lambda fields: {},
)
"""Files have to state its sizes: the defaults of its class are not known for certain."""
