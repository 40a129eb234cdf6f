"""The ONNX graph of texts behind other servers, for `serve_http.py`: `serve_peers.py litserve|mlserver GRAPH PORT`.

Both batch as `internvl-edge serve` does by default: up to 16 requests, waiting 2 ms at most. They run in the Python
that has them, which need not be ours.
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

MAX_BATCH, MAX_DELAY_S = 16, 0.002
GRAPH, THREADS = "SERVE_PEERS_GRAPH", "SERVE_PEERS_THREADS"
"""Environment variables that a peer's own processes read."""


def opened() -> Any:
    """Return a session of the graph in ONNX Runtime."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = int(os.environ.get(THREADS, "0"))
    return onnxruntime.InferenceSession(os.environ[GRAPH], settings, providers=["CPUExecutionProvider"])


def run_litserve(port: int) -> None:
    """Serve with LitServe, whose batches are lists of decoded requests."""
    import litserve
    from serve_peers_litserve import Texts

    api = Texts(max_batch_size=MAX_BATCH, batch_timeout=MAX_DELAY_S)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=30)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="error")


def run_mlserver(port: int) -> None:
    """Serve with MLServer and its adaptive batching, through a runtime of our own since it has none for ONNX."""
    from mlserver import MLServer
    from mlserver.cli.serve import load_settings

    with tempfile.TemporaryDirectory() as folder:
        ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
        settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, "access_logger": None, **ports}
        model = {
            "name": "text",
            "implementation": "serve_peers_mlserver.Texts",
            "max_batch_size": MAX_BATCH,
            "max_batch_time": MAX_DELAY_S,
        }
        (Path(folder) / "settings.json").write_text(json.dumps(settings))
        (Path(folder) / "model-settings.json").write_text(json.dumps(model))

        async def serve() -> None:
            loaded, models = await load_settings(folder)
            await MLServer(loaded).start(models)

        asyncio.run(serve())


if __name__ == "__main__":
    name, graph, chosen = sys.argv[1:]
    os.environ[GRAPH] = graph
    {"litserve": run_litserve, "mlserver": run_mlserver}[name](int(chosen))
