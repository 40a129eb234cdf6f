"""A packaged demo in NVIDIA's own server, asked by NVIDIA's own client."""

import base64
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.package.options import RepositoryOptions
from internvl_edge.runtime.package.repository import write_repository
from tests.project import ROOT
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.onnx_bundle import NARROW, write_typed_bundle

SERVER = ROOT / ".triton"
"""Where `make .triton/.ready` puts the server of the package nvidia-pytriton, and a NumPy as old as it wants."""


def backends(folder: Path) -> Path:
    """Return a copy of the server's Python backend with the stub of this Python, or skip."""
    here = SERVER / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = here / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        pytest.skip(f"no Triton for Python {version} in {SERVER.name}; run `make .triton/.ready`")
    needed = subprocess.run(["ldd", stub], capture_output=True, text=True, check=False).stdout
    if "not found" in needed:
        missing = [line.split()[0] for line in needed.splitlines() if "not found" in line]
        pytest.skip(f"Triton's Python backend lacks {', '.join(missing)}")
    copy = folder / "backends" / "python"
    shutil.copytree(here / "backends" / "python", copy, symlinks=True)
    (copy / stub.name).write_bytes(stub.read_bytes())
    (copy / stub.name).chmod(0o755)
    return copy.parent


def let_it_import(repository: Path, folder: Path) -> None:
    """Give the models the packages of this environment: Triton's Python starts with none, and knows no variables."""
    folder.mkdir()
    (folder / "internvl_edge").symlink_to(ROOT)
    paths = [str(SERVER), str(folder), sysconfig.get_path("purelib")]
    for model in repository.glob("*/1/model.py"):
        model.write_text(f"import sys\nsys.path[:0] = {paths}\n{model.read_text()}")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def server(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    """A client of a server that has the demo."""
    with started(demo_bundle, tmp_path_factory.mktemp("triton")) as client:
        yield client


@contextmanager
def started(bundle: Path, folder: Path) -> Iterator[triton.InferenceServerClient]:
    """Start a server of a bundle, and give a client of it."""
    known = backends(folder)
    options = RepositoryOptions(platform="runtime", backend="onnxruntime", max_batch=4, task_instances=1)
    write_repository(bundle, folder / "repository", options)
    let_it_import(folder / "repository", folder / "packages")
    http, grpc, metrics = free_ports(3)
    command = [
        SERVER / "pytriton" / "tritonserver" / "bin" / "tritonserver",
        f"--model-repository={folder / 'repository'}",
        f"--backend-directory={known}",
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
    ]
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "LD_LIBRARY_PATH": str(SERVER / "nvidia_pytriton.libs")},
        )
    client = triton.InferenceServerClient(f"127.0.0.1:{http}")
    try:
        deadline = time.monotonic() + HANG_S
        while not answers(client):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(log.read_text(errors="replace")[-4000:])
            time.sleep(0.2)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(timeout=HANG_S)


def answers(client: triton.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready())
    except OSError:
        return False


@pytest.fixture(scope="module")
def model(demo_bundle: Path) -> Iterator[InternVL]:
    with InternVL.open(demo_bundle, "onnxruntime") as model:
        yield model


def strings(name: str, values: list[bytes]) -> triton.InferInput:
    tensor = triton.InferInput(name, [len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array(values, np.object_))
    return tensor


def contents(pictures: Path, count: int = 2) -> tuple[list[Path], list[bytes]]:
    files = sorted(pictures.glob("*.png"))[:count]
    return files, [file.read_bytes() for file in files]


def test_features_are_those_of_the_runtime(
    server: triton.InferenceServerClient, model: InternVL, pictures: Path
) -> None:
    files, encoded = contents(pictures)
    image = server.infer("encode_image", [strings("image", encoded)], parameters={"mode": "g"}).as_numpy("embedding")
    text = server.infer("encode_text", [strings("text", [b"a slice of pizza"])]).as_numpy("embedding")
    np.testing.assert_allclose(image, model.encode_image(files, "g"), rtol=0, atol=1e-4)
    np.testing.assert_allclose(text, model.encode_text(["a slice of pizza"]), rtol=0, atol=1e-4)


def test_a_picture_is_taken_however_it_is_sent_and_never_as_text(
    server: triton.InferenceServerClient, model: InternVL, pictures: Path
) -> None:
    (file,), (encoded,) = contents(pictures, 1)
    url = b"DATA:;base64," + base64.b64encode(encoded)
    image = server.infer("encode_image", [strings("image", [url])]).as_numpy("embedding")
    np.testing.assert_allclose(image, model.encode_image([file]), rtol=0, atol=1e-4)
    with pytest.raises(InferenceServerException, match="text 0 is a picture and no text"):
        server.infer("encode_text", [strings("text", [url])])


def test_more_rows_than_a_batch_are_cut(server: triton.InferenceServerClient, model: InternVL) -> None:
    texts = [f"text number {number}" for number in range(6)]
    answer = server.infer("encode_text", [strings("text", [text.encode() for text in texts])])
    np.testing.assert_allclose(answer.as_numpy("embedding"), model.encode_text(texts), rtol=0, atol=1e-4)


def test_classes_and_captions(server: triton.InferenceServerClient, model: InternVL, pictures: Path) -> None:
    files, encoded = contents(pictures)
    labels = ["a slice of pizza", "a flag"]
    inputs = [strings("image", encoded), strings("labels", [label.encode() for label in labels])]
    probabilities = server.infer("classify", inputs).as_numpy("probabilities")
    np.testing.assert_allclose(probabilities, model.classify(files, labels), rtol=0, atol=1e-4)
    captions = server.infer("caption", [strings("image", encoded)]).as_numpy("text")
    assert [caption.decode() for caption in captions] == model.caption(files)


def test_a_graph_is_a_model_of_its_own(server: triton.InferenceServerClient, model: InternVL) -> None:
    ids = model.tokenize(["a slice of pizza"])
    tensor = triton.InferInput("input_ids", ids.shape, "INT64")
    tensor.set_data_from_numpy(ids)
    wanted = model.run_graph("text", {"input_ids": ids})["text_embeds"]
    np.testing.assert_allclose(server.infer("text", [tensor]).as_numpy("text_embeds"), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("task", "inputs", "finding"),
    [
        ("encode_image", {"image": [b"no picture"]}, r"image.* cannot be read"),
        ("classify", {"image": [b"no picture"]}, "labels"),
        ("classify", {"image": [b"x"], "labels": [b"a", b"b", b"a"]}, "labels 2 is the same as labels 0"),
        ("encode_image", {"image": [b"https://example.com/a.png"]}, "image 0 is an address"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_sentence(
    server: triton.InferenceServerClient, task: str, inputs: dict[str, list[bytes]], finding: str
) -> None:
    with pytest.raises(InferenceServerException, match=finding):
        server.infer(task, [strings(name, values) for name, values in inputs.items()])


def test_graphs_in_fp16_give_what_their_configuration_says(tmp_path: Path) -> None:
    values = np.array([[0.1, -7.3, 1000.7, 3e-5]], np.float16)
    with started(write_typed_bundle(tmp_path / "bundle", "float16"), tmp_path) as client:
        for graph in NARROW:
            told = {tensor["name"]: tensor["datatype"] for tensor in client.get_model_metadata(graph)["outputs"]}
            assert told == {"states": "FP16", "third": "FP32"}
            tensor = triton.InferInput("x", [1, 4], "FP16")
            tensor.set_data_from_numpy(values)
            answer = client.infer(graph, [tensor])
            third = values.astype(np.float32) / np.float32(3)
            np.testing.assert_array_equal(answer.as_numpy("states"), third.astype(np.float16))
            np.testing.assert_array_equal(answer.as_numpy("third"), third)
