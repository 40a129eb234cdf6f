"""Answer requests with a chat bundle for benchmarks/chat.py: `chat_ours.py BUNDLE BACKEND OPTIONS`.

OPTIONS is a JSON object of `SessionOptions`. Requests and answers are those of chat_transformers.py.
"""

import json
import sys
import time
from importlib.metadata import version

import numpy as np

from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.bundle.graph_roles import LANGUAGE_MODEL, TILE_ENCODER
from internvl_edge.runtime.model import InternVL


def main(bundle: str, backend: str, options: str) -> None:
    """Open the bundle, and answer until the input ends."""
    with InternVL.open(bundle, backend, verify=False, options=SessionOptions(**json.loads(options))) as model:
        graphs = model.bundle.graphs_of(TILE_ENCODER, LANGUAGE_MODEL)
        used = ", ".join(f"{graph} on {model.session(graph).backend}" for graph in graphs)
        _say({"name": f"internvl-edge {version('internvl-edge')}, {used}"})
        for line in sys.stdin:
            request = json.loads(line)
            pixels = np.load(request["pixel_values"])
            ids = np.array([request["input_ids"]])
            start = time.perf_counter()
            new = model.generate_chat(pixels, ids, max_new_tokens=request["new_tokens"], eos_token_id=())
            _say({"seconds": time.perf_counter() - start, "ids": np.asarray(new)[0].tolist()})


def _say(content: dict[str, object]) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
