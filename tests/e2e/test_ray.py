"""A cluster of Ray on this machine: a node dies in the middle of an embedding; an application of Serve answers."""

import json
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'internvl-edge[ray]'")

from ray.cluster_utils import Cluster  # noqa: E402

from internvl_edge.runtime import InternVL  # noqa: E402
from internvl_edge.runtime.embed.embedding import EmbedReport, embed, embed_texts  # noqa: E402
from internvl_edge.runtime.embed.options import EmbedOptions  # noqa: E402
from internvl_edge.runtime.errors import InputError  # noqa: E402
from internvl_edge.runtime.inputs.read import find_pictures  # noqa: E402
from internvl_edge.runtime.monitor import Monitor  # noqa: E402
from internvl_edge.runtime.ray.application import build, serve_options  # noqa: E402
from internvl_edge.runtime.ray.engine import RayEngine, RayOptions  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
STORE_BYTES = 80 << 20
DEAD_SOON = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
"""Ray takes half a minute by default to find that a node is gone."""
PROXY_TIMEOUT = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
"""Serve waits 5 s for its proxy by default, then starts another: on a busy machine none of them is ever up."""
CPU = RayOptions(workers=2, backend="onnxruntime")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that computes nothing, and two nodes of a CPU each."""
    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False, "_system_config": DEAD_SOON}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in PROXY_TIMEOUT.items():
            environment.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)


@pytest.fixture(scope="module")
def model(demo_bundle: Path) -> Iterator[InternVL]:
    with InternVL.open(demo_bundle, "onnxruntime") as model:
        yield model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, emoji: Path) -> Path:
    """All test pictures."""
    folder = tmp_path_factory.mktemp("all")
    with zipfile.ZipFile(emoji / "data" / "test.zip") as archive:
        archive.extractall(folder)
    return folder


def names(output: Path) -> list[str]:
    return [json.loads(line)["image"] for line in output.with_suffix(".names.jsonl").read_text().splitlines()]


def test_no_row_is_lost_or_doubled_where_a_node_dies(
    cluster: Any, model: InternVL, folder: Path, tmp_path: Path
) -> None:
    nodes = [add_node(cluster), add_node(cluster)]
    pictures = find_pictures([folder])
    seen = 0

    def advance(count: int) -> None:
        nonlocal seen
        if seen < 256 <= seen + count:  # the first chunk of many is there
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        seen += count

    def write(name: str, **settings: Any) -> EmbedReport:
        return embed(model, pictures, EmbedOptions(output=tmp_path / name), **settings)

    report = write("ray.npy", monitor=Monitor(advance=advance), engine=RayEngine(model.bundle, CPU))
    assert len(nodes) == 1
    assert report.computed == len(pictures) == seen
    write("local.npy")
    assert names(tmp_path / "ray.npy") == names(tmp_path / "local.npy") == [str(picture.name) for picture in pictures]
    rows, wanted = (np.load(tmp_path / f"{name}.npy") for name in ("ray", "local"))
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=1e-5)


def test_tables_and_texts_go_through_the_cluster(cluster: Any, model: InternVL, emoji: Path, tmp_path: Path) -> None:
    if not ray.cluster_resources().get("CPU"):
        add_node(cluster)
    engine = RayEngine(model.bundle, RayOptions(workers=1, backend="onnxruntime"))
    pictures = find_pictures([emoji / "data" / "test.jsonl"])[:40]  # of the archive beside it
    embed(model, pictures, EmbedOptions(output=tmp_path / "a.npy"), engine=engine)
    np.testing.assert_allclose(
        np.load(tmp_path / "a.npy"), model.encode_image([picture.content() for picture in pictures], "g"), atol=1e-5
    )
    texts = ["a slice of pizza", "a flag"]
    embed_texts(model, texts, EmbedOptions(output=tmp_path / "b.npy"), engine=engine)
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), model.encode_text(texts), atol=1e-4)


def test_what_a_worker_cannot_read_is_the_drivers_error(cluster: Any, model: InternVL, tmp_path: Path) -> None:
    if not ray.cluster_resources().get("CPU"):
        add_node(cluster)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    engine = RayEngine(model.bundle, RayOptions(workers=1, backend="onnxruntime"))
    with pytest.raises(InputError, match=r"unreadable: .*bad\.png"):
        embed(model, find_pictures([tmp_path / "bad.png"]), EmbedOptions(output=tmp_path / "c.npy"), engine=engine)


def test_a_worker_keeps_the_limit_on_pixels(cluster: Any, model: InternVL, pictures: Path, tmp_path: Path) -> None:
    if not ray.cluster_resources().get("CPU"):
        add_node(cluster)
    engine = RayEngine(model.bundle, RayOptions(workers=1, backend="onnxruntime", max_pixels=10))
    with pytest.raises(InputError, match=r"unreadable: .*pixels"):
        embed(model, find_pictures([pictures]), EmbedOptions(output=tmp_path / "d.npy"), engine=engine)


def test_an_application_answers_the_protocol_of_serve(cluster: Any, model: InternVL) -> None:
    from ray import serve

    if not ray.cluster_resources().get("CPU"):
        add_node(cluster)
    bundle = str(model.bundle.path)
    port = 18_000 + time.monotonic_ns() % 2000
    serve.start(http_options={"port": port})
    try:
        application = build({"bundle": bundle, "cpus": "0.5", "backend": "onnxruntime", "deadline_ms": "300000"})
        serve.run(application, name="internvl", route_prefix="/")
        asked = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a flag"]}]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v2/models/encode_text/infer",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            (output,) = json.load(response)["outputs"]
        np.testing.assert_allclose(output["data"], model.encode_text(["a flag"])[0], atol=1e-4)
    finally:
        serve.shutdown()


def test_arguments_of_a_command_line_are_options() -> None:
    options = serve_options({"max_batch": "4", "max_delay_ms": "1.5", "threads": "2", "bf16": "true"})
    assert (options.max_batch, options.max_delay_ms, options.threads, options.bf16) == (4, 1.5, 2, True)
    assert serve_options({"bf16": "False"}).bf16 is False


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        ({}, "no bundle given"),
        ({"bundle": "x", "batch": "4"}, "batch not known; give bundle, replicas"),
        ({"bundle": "x", "max_batch": "four"}, "give numbers, true or false where these are meant"),
        ({"bundle": "x", "bf16": "yes"}, "'yes' is neither true nor false"),
        ({"bundle": "x", "max_batch": "0"}, r"max_batch 0 \(1 or more\)"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, str], finding: str) -> None:
    with pytest.raises(InputError, match=finding):
        build(arguments)
