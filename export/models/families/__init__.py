"""The model families, which are the kinds of parts that a model may have: one file and one row each."""

from internvl_edge.export.models.families.connector import CONNECTOR
from internvl_edge.export.models.families.family import Family
from internvl_edge.export.models.families.internvit import INTERNVIT
from internvl_edge.export.models.families.language_model import LANGUAGE_MODEL
from internvl_edge.export.models.families.pool import POOL
from internvl_edge.export.models.families.qllama import QLLAMA_FAMILY

FAMILIES: tuple[Family, ...] = (INTERNVIT, QLLAMA_FAMILY, POOL, CONNECTOR, LANGUAGE_MODEL)
"""All families; the tower is the first, because other parts are read with its configuration."""
