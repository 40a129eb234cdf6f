"""The families of language models: one row and one file each."""

from internvl_edge.export.models.families.language.family import LanguageFamily
from internvl_edge.export.models.families.language.qwen2 import QWEN2

LANGUAGE_FAMILIES: tuple[LanguageFamily, ...] = (QWEN2,)
