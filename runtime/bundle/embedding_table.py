"""Rows of the table of token embeddings, read from the mapped weight store of a chat bundle."""

import numpy as np

from internvl_edge.runtime.bundle.bundle import Bundle


class EmbeddingTable:
    """The table of a bundle. Only the rows that are asked for are read from the file.

    Raises:
        BundleError: the bundle has no language model.
    """

    def __init__(self, bundle: Bundle) -> None:
        language = bundle.manifest.model.require_language()
        place = language.embedding
        self._bfloat16 = place.dtype == "bfloat16"
        self._table = np.memmap(
            bundle.path / place.file,
            dtype=np.uint16 if self._bfloat16 else np.dtype(place.dtype),
            mode="r",
            offset=place.offset,
            shape=(place.rows, language.hidden_size),
        )

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows ``[..., H]`` of ids ``[...]`` in the table's type; bfloat16 in fp32, which NumPy has."""
        rows = np.asarray(self._table[ids])
        if not self._bfloat16:
            return rows
        wide: np.ndarray = (rows.astype(np.uint32) << 16).view(np.float32)
        return wide
