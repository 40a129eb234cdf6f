"""A bundle without the query graph gives InternVL-C's features: every command takes that mode by itself."""

import http.client
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.serve.models import served_models
from internvl_edge.runtime.tasks.features import CLASSIFICATION_SCALE, similarity_logits, softmax, unit
from tests.e2e.conftest import ONE_THREAD, Run
from tests.e2e.test_cli import one_line
from tests.exports import Exports
from tests.tolerances import HANG_S

TEXTS = ("gem stone", "a slice of pizza")


@pytest.fixture(scope="module")
def bundle(exports: Exports, emoji: Path) -> Path:
    return exports.bundle(emoji / "checkpoint", graphs=("vision", "text"))


@pytest.fixture(scope="module")
def files(pictures: Path) -> list[Path]:
    return sorted(pictures.rglob("*.png"))[:2]


def test_python_takes_mode_c(bundle: Path, files: list[Path]) -> None:
    with InternVL.open(bundle, "onnxruntime", options=ONE_THREAD) as model:
        assert model.default_mode == "c"
        images, texts = model.encode_image(files, "c"), model.encode_text(TEXTS)
        expected = similarity_logits(images, texts, model.info.logit_scale or 0)
        np.testing.assert_array_equal(model.similarity(files, TEXTS), expected)
        cropped = unit(model.encode_image(model.preprocess(files, "crop"), "c"))
        probabilities = softmax(CLASSIFICATION_SCALE * (cropped @ model.classifier(TEXTS, ("{}",))))
        np.testing.assert_allclose(model.classify(files, TEXTS), probabilities, rtol=1e-5)
        with pytest.raises(BundleError, match=r"has no graph query .*, which mode g \(InternVL-G\) needs"):
            model.classify(files, TEXTS, mode="g")


def test_a_bundle_with_the_query_graph_takes_mode_g(demo_bundle: Path, files: list[Path]) -> None:
    with InternVL.open(demo_bundle, "onnxruntime", options=ONE_THREAD) as model:
        assert model.default_mode == "g"
        np.testing.assert_array_equal(model.similarity(files, TEXTS), model.similarity(files, TEXTS, mode="g"))


@pytest.mark.parametrize("task", ["retrieve", "video", "embed"])
def test_run_takes_mode_c_and_refuses_g(
    run: Run, bundle: Path, pictures: Path, files: list[Path], tmp_path: Path, task: str
) -> None:
    texts = [part for text in TEXTS for part in ("-t", text)]
    arguments: dict[str, list[Any]] = {
        "retrieve": [*files, *texts, "--json"],
        "video": [pictures, *texts, "--frames", 4, "--json"],
        "embed": [*files, "-o", tmp_path / "features.npy", "--backend", "onnxruntime", "--threads", 1],
    }
    done, named = (run("run", task, bundle, *arguments[task], *mode) for mode in ([], ["--mode", "c"]))
    assert (done.returncode, named.returncode) == (0, 0), done.stderr + named.stderr
    if task == "embed":
        with InternVL.open(bundle, "onnxruntime", options=ONE_THREAD) as model:
            features = model.encode_image(files, "c")
        np.testing.assert_allclose(np.load(tmp_path / "features.npy"), features, rtol=1e-5, atol=1e-5)
    else:
        assert json.loads(done.stdout) == json.loads(named.stdout)
    refused = run("run", task, bundle, *arguments[task], "--mode", "g")
    one_line(refused, "has no graph query (it has vision, text), which mode g (InternVL-G) needs; take mode c")


def test_classify_eval_and_bench_take_mode_c(
    run: Run, bundle: Path, files: list[Path], emoji: Path, tmp_path: Path
) -> None:
    done = run("run", "classify", bundle, *files, "-l", TEXTS[0], "-l", TEXTS[1])
    assert done.returncode == 0, done.stderr
    done = run("eval", bundle, "--data", emoji / "data" / "test.jsonl", "--sample-count", 4, "--json")
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["bundle"]["retrieval"]) == ["c"]
    report = tmp_path / "bench.json"
    done = run("bench", bundle, "--duration", "0.05", "--iterations", 2, "--threads", 1, "--json", report)
    assert done.returncode == 0, done.stderr
    cases = [case["name"] for case in json.loads(report.read_text())["cases"]]
    assert cases == ["vision", "text", "request image", "request text"]


def test_serve_lists_and_answers_mode_c_alone(bundle: Path) -> None:
    command = [sys.executable, "-m", "internvl_edge.cli", "serve", str(bundle), "--http", "0", "--grpc", "-1"]
    with subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rsplit(":", 1)[1])
            assert "encode_image" in process.stdout.readline(), "the models are known once all workers are up"
            status, listed = _ask(port, "/v1/models")
            assert (status, [entry["id"] for entry in listed["data"]]) == (200, ["internvl-c"])
            assert _ask(port, "/v1/embeddings", {"model": "internvl-c", "input": "gem stone"})[0] == 200
            status, error = _ask(port, "/v1/embeddings", {"model": "internvl-g", "input": "gem stone"})
            told = "model 'internvl-g' is not served here; there are internvl-c"
            assert (status, error["error"]["message"]) == (404, told)
        finally:
            process.terminate()


def _ask(port: int, path: str, body: Any = None) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_S)) as connection:
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_tasks_of_servers_have_mode_c_alone(run: Run, bundle: Path, tmp_path: Path) -> None:
    served = served_models(Bundle.open(bundle).manifest)
    assert [name for name in served if "encode" in name or name == "classify"] == [
        "encode_image",
        "encode_text",
        "classify",
    ]
    for name in ("encode_image", "classify"):
        assert (served[name].choices["mode"].default, served[name].choices["mode"].allowed) == ("c", ("c",))
        assert "(InternVL-G)" not in served[name].signature.parameters["mode"]
    done = run("package", "triton", bundle, "-o", tmp_path / "repository")
    assert (done.returncode, sorted(path.name for path in (tmp_path / "repository").iterdir())) == (
        0,
        ["classify", "encode_image", "encode_text", "text", "vision"],
    ), done.stderr
    done = run("package", "ray", bundle, "-o", tmp_path / "serve.yaml")
    assert done.returncode == 0, done.stderr
