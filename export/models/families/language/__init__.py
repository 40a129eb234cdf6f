"""The families of language models: one row and one file each."""

from internvl_edge.export.models.families.language.family import LanguageFamily
from internvl_edge.export.models.families.language.internlm2 import INTERNLM2
from internvl_edge.export.models.families.language.internlm3 import INTERNLM3
from internvl_edge.export.models.families.language.llama import LLAMA
from internvl_edge.export.models.families.language.phi3 import PHI3
from internvl_edge.export.models.families.language.qwen2 import QWEN2
from internvl_edge.export.models.families.language.qwen3 import QWEN3

LANGUAGE_FAMILIES: tuple[LanguageFamily, ...] = (QWEN2, QWEN3, LLAMA, INTERNLM2, INTERNLM3, PHI3)
