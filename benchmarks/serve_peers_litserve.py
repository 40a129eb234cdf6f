"""A graph of texts as LitServe loads it; see `serve_peers.py`."""

from typing import Any

import litserve
import numpy as np
from serve_peers import opened


class Texts(litserve.LitAPI):  # type: ignore[misc]
    """API that computes embeddings from token ids."""

    def setup(self, device: str) -> None:
        """Open the graph."""
        self.session = opened()

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        """Return the ids."""
        return np.array(request["input_ids"], np.int64)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the requests as one batch."""
        return np.concatenate(inputs)

    def predict(self, ids: np.ndarray) -> np.ndarray:
        """Run the graph."""
        embeds: np.ndarray = self.session.run(None, {"input_ids": ids})[0]
        return embeds

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """Return the parts of the batch's answer."""
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        """Return JSON."""
        return {"text_embeds": output.tolist()}
