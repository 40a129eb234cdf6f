"""Checks that an extra works in the environment where it is installed."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "tests" / "data" / "golden" / "case_b_internvit300m" / "checkpoint_vit"
NATIVE_CHAT = ROOT / "tests" / "golden" / "chat" / "c4" / "checkpoint"
START_S = 60


@dataclass(frozen=True)
class Place:
    """Folders and bundle of the checks in one environment."""

    bin: Path
    bundle: Path
    pictures: Path
    work: Path

    def run(self, *command: object, tool: str = "internvl-edge") -> str:
        """Run a command of the environment and return its output."""
        line = [str(self.bin / tool), *map(str, command)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=self.work, env=environment())
        if done.returncode:
            raise AssertionError(f"{' '.join(line)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
        return done.stdout


Check = Callable[[Place], None]


@dataclass(frozen=True)
class Extra:
    """An extra, what else is installed for its check, and the check."""

    check: Check
    beside: tuple[str, ...] = ()
    """Extras that its commands need as well, in their newest versions."""


def base(place: Place) -> None:
    """Check the commands that need no library that runs graphs."""
    place.run("--version")
    place.run("--help")
    place.run("doctor")
    place.run("targets")
    assert "vision" in place.run("inspect", place.bundle)


def cpu(place: Place) -> None:
    """Check bundles on ONNX Runtime."""
    picture = place.pictures / "0011.png"
    said = place.run("run", "retrieve", place.bundle, picture, "-t", "gem stone", "-t", "flag: Nepal")
    assert said.index("gem stone") < said.index("flag: Nepal"), said
    place.run("run", "caption", place.bundle, picture, "--max-new-tokens", "4")
    place.run("run", "embed", place.bundle, picture, "-o", place.work / "features.npz")
    place.run("bench", place.bundle, "--graphs", "text", "--duration", "1")


def export(place: Place) -> None:
    """Check the export of a checkpoint, also in 8 bits, and of a kit."""
    place.run("export", CHECKPOINT, "-o", place.work / "new", "--sample-count", "1")
    place.run(
        "export",
        CHECKPOINT,
        "-o",
        place.work / "int8",
        "--precision",
        "int8",
        "--data",
        "random",
        "--gate-samples",
        "0",
    )
    place.run("build", place.work / "new", "--target", "agx-orin-64gb", "-o", place.work / "kit")
    place.run("inspect", place.work / "int8")


def rtx(place: Place) -> None:
    """Check the build of a plan for another machine's GPU."""
    place.run("export", CHECKPOINT, "-o", place.work / "planned", "--sample-count", "1", "--target", "rtx-4090")
    place.run("inspect", "--engine", place.work / "planned" / "engines" / "rtx-4090" / "vision.plan")


def optimum(place: Place) -> None:
    """Check the subcommand of optimum-cli."""
    place.run("export", "internvl-edge", "-m", CHECKPOINT, place.work / "new", tool="optimum-cli")


def plugins(place: Place) -> None:
    """Check the compilation of attention kernels for a device."""
    place.run("export", CHECKPOINT, "-o", place.work / "new", "--sample-count", "1")
    place.run(
        "build", place.work / "new", "--target", "agx-orin-64gb", "--attention", "plugin", "-o", place.work / "kit"
    )


def openvino(place: Place) -> None:
    """Check bundles on OpenVINO."""
    place.run("run", "retrieve", place.bundle, place.pictures / "0011.png", "-t", "gem stone", "--backend", "openvino")


def parquet(place: Place) -> None:
    """Check reading and writing of Parquet tables."""
    place.run("run", "embed", place.bundle, place.pictures / "0011.png", "-o", place.work / "features.parquet")
    table = (
        "import pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.table({'text': ['a', 'b']}), 'texts.parquet')"
    )
    place.run("-c", table, tool="python")
    place.run("run", "embed", place.bundle, "texts.parquet", "--text-column", "text", "-o", place.work / "texts.npy")


def video(place: Place) -> None:
    """Check a video of six frames."""
    make = (
        "import av, numpy as np\n"
        "with av.open('film.mp4', 'w') as film:\n"
        "    stream = film.add_stream('mpeg4', rate=2)\n"
        "    stream.width, stream.height, stream.pix_fmt = 64, 64, 'yuv420p'\n"
        "    for shade in range(0, 240, 40):\n"
        "        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format='rgb24')\n"
        "        film.mux(stream.encode(frame))\n"
        "    film.mux(stream.encode())\n"
    )
    place.run("-c", make, tool="python")
    place.run("run", "video", place.bundle, "film.mp4", "-t", "night", "-t", "day", "--frames", "3")


def chat(place: Place) -> None:
    """Check the tokenizer and the Jinja template of a chat checkpoint."""
    ask = (
        "from pathlib import Path\n"
        "from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import open_chat_tokenizer\n"
        "from internvl_edge.runtime.tasks.chat.native_template import NativeTemplate\n"
        "from internvl_edge.runtime.tasks.chat.templates import Piece\n"
        f"folder = Path({str(NATIVE_CHAT)!r})\n"
        "tokenizer = open_chat_tokenizer(folder)\n"
        "template = NativeTemplate((folder / 'chat_template.jinja').read_text(), '<IMG_CONTEXT>', tokenizer.roles)\n"
        "text = template.text(None, [[Piece('Hello')]])\n"
        "assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text, text\n"
    )
    place.run("-c", ask, tool="python")


def serve(place: Place) -> None:
    """Check a server over HTTP and gRPC."""
    _serve(place)


def tracing(place: Place) -> None:
    """Check a server that sends spans without a collector."""
    _serve(place, "--traces")


def ray(place: Place) -> None:
    """Check a Ray cluster on this machine."""
    place.run(
        "run", "embed", place.bundle, place.pictures, "-o", place.work / "f.npz", "--engine", "ray", "--workers", 1
    )


EXTRAS = {
    "base": Extra(base),
    "cpu": Extra(cpu),
    "jetson": Extra(cpu),
    "export": Extra(export),
    "rtx": Extra(rtx, beside=("export",)),
    "optimum": Extra(optimum, beside=("export",)),
    "plugins": Extra(plugins, beside=("export",)),
    "openvino": Extra(openvino),
    "parquet": Extra(parquet, beside=("cpu",)),
    "video": Extra(video, beside=("cpu",)),
    "chat": Extra(chat),
    "serve": Extra(serve, beside=("cpu",)),
    "tracing": Extra(tracing, beside=("cpu", "serve")),
    "ray": Extra(ray, beside=("cpu",)),
}
"""Name of each extra that is checked.

Three are left out: gpu, whose packages are gigabytes and need a GPU; jetson, which scripts/check_jetson.sh resolves for
its processor; and dev, which constraints.txt pins.
"""


def environment() -> dict[str, str]:
    """Return the environment variables of this process, without those that would import the checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _serve(place: Place, *settings: str) -> None:
    http, grpc = _free_port(), _free_port()
    line = [place.bin / "internvl-edge", "serve", place.bundle, "--http", http, "--grpc", grpc, *settings]
    with (place.work / "log").open("w") as log:
        server = subprocess.Popen([*map(str, line)], stdout=log, stderr=log, cwd=place.work, env=environment())
    try:
        _until_ready(server, f"http://127.0.0.1:{http}/v2/health/ready", place.work / "log")
        models = _get(f"http://127.0.0.1:{http}/v2/models/text")
        assert b"input_ids" in models, models
        body = b'{"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 3], "data": [2, 5, 3]}]}'
        answer = _get(f"http://127.0.0.1:{http}/v2/models/text/infer", body)
        assert b"text_embeds" in answer, answer
        assert b"# HELP" in _get(f"http://127.0.0.1:{http}/metrics")
        ask = f"import grpc; grpc.channel_ready_future(grpc.insecure_channel('127.0.0.1:{grpc}')).result(timeout=20)"
        place.run("-c", ask, tool="python")
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=60)
    assert code == 0, f"serve ended with {code}\n{(place.work / 'log').read_text()[-3000:]}"


def _until_ready(server: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    for _ in range(START_S * 5):
        assert server.poll() is None, f"serve ended\n{log.read_text()[-3000:]}"
        try:
            _get(address)
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"serve: not ready after {START_S} s\n{log.read_text()[-3000:]}")


def _get(address: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        content: bytes = answer.read()
    return content


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
