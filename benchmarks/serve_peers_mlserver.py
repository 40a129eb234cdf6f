"""A graph of texts as MLServer loads it; see `serve_peers.py`."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from serve_peers import opened


class Texts(MLModel):  # type: ignore[misc]
    """Runtime that computes embeddings from token ids."""

    async def load(self) -> bool:
        """Open the graph."""
        self.session = opened()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run it."""
        ids = NumpyCodec.decode_input(payload.inputs[0]).astype("int64")
        (embeds,) = self.session.run(None, {"input_ids": ids})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("text_embeds", embeds)])
