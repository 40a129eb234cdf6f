"""A bundle's graphs and tasks as Triton takes them, read by Triton's own schema."""

import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.engines import EngineRecord, GraphEngines, PlanRecord, scales_digest, weight_digests
from internvl_edge.runtime.bundle.graph_roles import LANGUAGE_MODEL, TILE_ENCODER, GraphUse
from internvl_edge.runtime.bundle.manifest import FileInfo, GraphInfo, Manifest, TensorSpec
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.package.folders import new_folder
from internvl_edge.runtime.package.model_config import EnumValue, config_text
from internvl_edge.runtime.package.options import RepositoryOptions
from internvl_edge.runtime.package.ray_config import RayServeOptions, write_config
from internvl_edge.runtime.package.repository import write_repository
from internvl_edge.runtime.progress import Advance
from internvl_edge.runtime.ray.application import serve_options
from internvl_edge.runtime.serve.options import ServeOptions
from tests.unit.runtime.graph_uses import USES
from tests.unit.runtime.serve.chat_model import chat_manifest

GRAPHS = {
    "vision": (
        (TensorSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 4, 4)),),
        (
            TensorSpec(name="vision_states", dtype="float16", shape=("batch", 1, 3)),
            TensorSpec(name="image_embeds", dtype="float32", shape=("batch", 3)),
        ),
    ),
    "text": (
        (TensorSpec(name="input_ids", dtype="int64", shape=("texts", "length")),),
        (TensorSpec(name="text_embeds", dtype="float32", shape=("texts", 3)),),
    ),
}

PLACES = {"vision": (4, 3), "text": (16, 2)}
"""First byte and number of the weights that a graph reads."""
WEIGHTS = np.arange(8, dtype=np.float32).tobytes()


def _sum_of(offset: int, count: int) -> onnx.ModelProto:
    """Return a model that sums weights lying in the store."""
    weight = onnx.TensorProto(name="weight", data_type=onnx.TensorProto.FLOAT, dims=[count])
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "weights.safetensors", "offset": offset, "length": 4 * count}.items():
        weight.external_data.add(key=key, value=str(value))
    node = onnx.helper.make_node("ReduceSum", ["weight"], ["sum"], keepdims=0)
    output = onnx.helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, [])
    graph = onnx.helper.make_graph([node], "sum", [], [output], initializer=[weight])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)


def _info(path: Path) -> FileInfo:
    return FileInfo(bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _computed(path: Path) -> float:
    onnx.checker.check_model(path, full_check=True)
    ort = pytest.importorskip("onnxruntime")
    (value,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {})
    (weight,) = onnx.load(path).graph.initializer
    assert onnx.numpy_helper.to_array(weight).sum() == value
    return float(value)


def _state(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (stat.st_nlink, stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


@pytest.fixture
def bundle(bundle_folder: Path) -> Path:
    """A bundle of two graphs with signatures, beside weights that they share."""
    path = bundle_folder / "manifest.json"
    manifest = Manifest.load(path)
    folder = bundle_folder / "onnx" / "fp32"
    (folder / "weights.safetensors").write_bytes(WEIGHTS)
    for name, (offset, count) in PLACES.items():
        onnx.save(_sum_of(offset, count), folder / f"{name}.onnx")
    written = ["weights.safetensors", *(f"{name}.onnx" for name in PLACES)]
    files = {**manifest.files, **{f"onnx/fp32/{name}": _info(folder / name) for name in written}}
    graphs = {
        name: GraphInfo(file=manifest.graphs[name].file, inputs=inputs, outputs=outputs, use=USES[name])
        for name, (inputs, outputs) in GRAPHS.items()
    }
    replace(manifest, graphs=graphs, files=files).save(path)
    return bundle_folder


@pytest.fixture
def add_plans(bundle: Path) -> Callable[..., Path]:
    """Write plans of `vision` in so many parts, and of `text` in one."""

    def add(target: str = "agx-orin-64gb", flavour: str = "tensorrt", parts: int = 1) -> Path:
        folder = bundle / "engines" / target
        folder.mkdir(parents=True)
        opened = Bundle.open(bundle)

        def plan(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> PlanRecord:
            (folder / name).write_text(name)
            digest = hashlib.sha256(name.encode()).hexdigest()
            return PlanRecord(
                file=name, bytes=len(name), sha256=digest, inputs=inputs, outputs=outputs, seconds=1.0, peak_bytes=1
            )

        def engines(graph: str, rows: int, *plans: PlanRecord) -> GraphEngines:
            shapes = tuple((count, 3) for count in (1, 1, rows))
            digest = opened.manifest.files[opened.manifest.graphs[graph].file].sha256
            return GraphEngines(graph_sha256=digest, key="k", profiles=({"x": shapes},), plans=plans)

        between = ["pixel_values", *(f"between{number}" for number in range(1, parts)), "image_embeds"]
        vision = [plan(f"vision.{number}.plan", (between[number],), (between[number + 1],)) for number in range(parts)]
        EngineRecord(
            target=target,
            sm=87,
            flavour=flavour,
            version="10.3.0",
            driver="12.6",
            flags={},
            weights=weight_digests(opened),
            scales_sha256=scales_digest(opened),
            graphs={
                "vision": engines("vision", 8, *vision),
                "text": engines("text", 32, plan("text.plan", ("input_ids",), ("text_embeds",))),
            },
        ).save(folder)
        return folder

    return add


def config(repository: Path, model: str) -> Any:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def write(bundle: Path, output: Path, **settings: Any) -> list[str]:
    return write_repository(bundle, output, RepositoryOptions(**settings))


class Heard:
    """A progress that records its calls."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, float, str]] = []
        self.done = 0.0

    @contextmanager
    def task(self, label: str, total: float, unit: str) -> Iterator[Advance]:
        self.tasks.append((label, total, unit))
        yield self._advance

    def _advance(self, more: float) -> None:
        self.done += more


def test_every_graph_is_reported(bundle: Path, tmp_path: Path) -> None:
    heard, graphs = Heard(), len(Manifest.load(bundle / "manifest.json").graphs)
    write_repository(bundle, tmp_path / "repository", RepositoryOptions(), heard)
    assert heard.tasks == [("Opening", 1, "bundle"), ("Writing graphs", graphs, "graphs")]
    assert heard.done == 1 + graphs


def test_text_is_what_protobuf_reads() -> None:
    text = config_text({"name": 'say "é"\n', "max_batch_size": 4, "input": [{"name": "x", "dims": [2, -1]}]})
    read = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (read.name, read.max_batch_size, list(read.input[0].dims)) == ('say "é"\n', 4, [2, -1])
    assert config_text({"kind": EnumValue("KIND_CPU"), "on": True}) == "kind: KIND_CPU\non: true\n"


def test_graphs_run_on_tritons_onnxruntime(bundle: Path, tmp_path: Path) -> None:
    models = write(bundle, tmp_path / "out", max_batch=8, max_delay_ms=1.5, instances=2, device="gpu", gpus=(0, 1))
    assert models == ["vision", "text", "encode_image", "encode_text", "classify"]
    vision = config(tmp_path / "out", "vision")
    assert (vision.name, vision.platform, vision.max_batch_size) == ("vision", "onnxruntime_onnx", 8)
    assert [(item.name, list(item.dims)) for item in vision.input] == [("pixel_values", [3, 4, 4])]
    assert [item.data_type for item in vision.output] == [model_config_pb2.TYPE_FP16, model_config_pb2.TYPE_FP32]
    assert vision.dynamic_batching.max_queue_delay_microseconds == 1500
    group = vision.instance_group[0]
    assert (group.count, group.kind, list(group.gpus)) == (2, model_config_pb2.ModelInstanceGroup.KIND_GPU, [0, 1])
    version = tmp_path / "out" / "vision" / "1"
    assert [path.name for path in version.iterdir() if path.suffix == ".onnx"] == ["model.onnx"]


def _sharing(shared: bool) -> Callable[[Path, Path], bool]:
    """Return a stand-in for `share_blocks` on a file system that can, or cannot."""

    def share(source: Path, target: Path) -> bool:
        if shared:
            target.write_bytes(source.read_bytes())
        return shared

    return share


@pytest.mark.parametrize("platform", ["onnxruntime", "runtime"])
@pytest.mark.parametrize(("shared", "weights"), [(True, "auto"), (False, "auto"), (False, "link")])
def test_every_graph_has_its_weights_and_the_bundle_stays_as_it_is(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, shared: bool, weights: str
) -> None:
    monkeypatch.setattr("internvl_edge.runtime.package.folders.share_blocks", _sharing(shared))
    before = _state(bundle)
    write(bundle, tmp_path / "out", platform=platform, weights=weights)
    assert _state(bundle) == before
    stores = []
    for name, expected in (("vision", 1 + 2 + 3), ("text", 4 + 5)):
        version = tmp_path / "out" / name / "1"
        own = version / "bundle"
        graph = Bundle.open(own).graph_file(name) if platform == "runtime" else version / "model.onnx"
        (store,) = graph.parent.glob("weights.*")
        stores.append(store)
        if weights != "link":
            assert store.stat().st_nlink == 1
            assert _computed(graph) == expected
    assert stores[0].samefile(stores[1]) == (weights == "link")
    if not shared and weights == "auto":
        assert [store.stat().st_size for store in stores] == [12, 8], "no more than what a graph reads"


def test_links_that_cannot_be_made_are_one_line(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(InputError, match=r"--weights link: no hard links here .*; leave the option out"):
        write(bundle, tmp_path / "out", weights="link")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.copy_file_range", full)
    with pytest.raises(InputError, match=r"out: cannot be written \(No space left on device\); make room") as caught:
        write(bundle, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_graph_that_is_no_model_is_named(bundle: Path, tmp_path: Path) -> None:
    from internvl_edge.runtime.package.folders import FileCopies
    from internvl_edge.runtime.package.graph_copy import copy_graph

    (tmp_path / "broken.onnx").write_text("vision")
    with pytest.raises(BundleError, match=r"broken\.onnx: is no ONNX model .*; export the bundle again"):
        copy_graph(tmp_path / "broken.onnx", tmp_path / "out.onnx", FileCopies())


def test_warm_up_takes_the_pictures_and_texts_given(bundle: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (9, 7), (255, 0, 0)).save(tmp_path / "red.png")
    write(bundle, tmp_path / "out", images=(tmp_path / "red.png",), texts=("a cat",))
    warm_up = config(tmp_path / "out", "vision").model_warmup
    assert [sample.batch_size for sample in warm_up] == [1, 16]
    sample = warm_up[0].inputs["pixel_values"]
    values = np.fromfile(tmp_path / "out" / "vision" / "warmup" / sample.input_data_file, np.float32)
    red = values.reshape(*sample.dims)[0]
    assert np.ptp(red) == 0
    assert red[0, 0] > 1  # white is 2.2 to 2.6 by ImageNet's mean and deviation
    ids = config(tmp_path / "out", "text").model_warmup[0].inputs["input_ids"]
    from internvl_edge.runtime import InternVL

    wanted = InternVL.open(bundle).tokenize(["a cat"])[0]
    assert np.fromfile(tmp_path / "out" / "text" / "warmup" / ids.input_data_file, np.int64).tolist() == list(wanted)


def test_a_plan_is_a_model_with_its_own_largest_batch(
    bundle: Path, tmp_path: Path, add_plans: Callable[..., Path]
) -> None:
    add_plans()
    write(bundle, tmp_path / "out", platform="tensorrt")
    found = {name: config(tmp_path / "out", name) for name in ("vision", "text")}
    assert {name: (c.platform, c.max_batch_size) for name, c in found.items()} == {
        "vision": ("tensorrt_plan", 8),
        "text": ("tensorrt_plan", 16),
    }
    assert (tmp_path / "out" / "text" / "1" / "model.plan").read_text() == "text.plan"


def test_the_parts_of_a_cut_graph_are_chained(bundle: Path, tmp_path: Path, add_plans: Callable[..., Path]) -> None:
    add_plans(parts=3)
    models = write(bundle, tmp_path / "out", platform="tensorrt")
    assert models[:4] == ["vision_part1", "vision_part2", "vision_part3", "vision"]
    steps = config(tmp_path / "out", "vision").ensemble_scheduling.step
    assert [(step.model_name, dict(step.input_map), dict(step.output_map)) for step in steps] == [
        ("vision_part1", {"pixel_values": "pixel_values"}, {"between1": "between1"}),
        ("vision_part2", {"between1": "between1"}, {"between2": "between2"}),
        ("vision_part3", {"between2": "between2"}, {"image_embeds": "image_embeds"}),
    ]
    assert config(tmp_path / "out", "vision_part2").platform == "tensorrt_plan"


@pytest.mark.parametrize(
    ("plans", "settings", "finding"),
    [
        ([], {}, "has no plans; name one with --target"),
        ([("l4", "tensorrt"), ("agx", "tensorrt")], {}, "has plans for agx, l4; name one"),
        ([("l4", "tensorrt")], {"target": "agx"}, "has plans for l4; name one"),
        ([("l4", "tensorrt_rtx")], {}, "which Triton cannot run; package with --platform runtime"),
    ],
)
def test_plans_that_triton_cannot_have_are_refused(
    bundle: Path,
    tmp_path: Path,
    add_plans: Callable[..., Path],
    plans: list[tuple[str, str]],
    settings: dict[str, str],
    finding: str,
) -> None:
    for target, flavour in plans:
        add_plans(target, flavour)
    with pytest.raises(BundleError, match=finding):
        write(bundle, tmp_path / "out", platform="tensorrt", **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_damaged_plans_are_named(bundle: Path, tmp_path: Path, add_plans: Callable[..., Path]) -> None:
    (add_plans() / "text.plan").write_text("other")
    with pytest.raises(BundleError, match=r"text\.plan has 5 bytes instead of 9; build the plans again"):
        write(bundle, tmp_path / "out", platform="tensorrt")


def test_graphs_on_this_runtime_have_a_bundle_each(bundle: Path, tmp_path: Path) -> None:
    write(bundle, tmp_path / "out", platform="runtime", backend="onnxruntime")
    text = config(tmp_path / "out", "text")
    assert text.backend == "python"
    assert {key: value.string_value for key, value in text.parameters.items()} == {
        "graph": "text",
        "backend": "onnxruntime",
    }
    part = Bundle.open(tmp_path / "out" / "text" / "1" / "bundle")
    assert list(part.manifest.graphs) == ["text"]
    assert "onnx/fp32/text.onnx" in part.manifest.files


def test_tasks_take_encoded_pictures_and_strings(bundle: Path, tmp_path: Path) -> None:
    write(bundle, tmp_path / "out", task_instances=3)
    classify = config(tmp_path / "out", "classify")
    assert (classify.backend, classify.max_batch_size, classify.instance_group[0].count) == ("python", 0, 3)
    assert [(item.name, list(item.dims), item.optional) for item in classify.input] == [
        ("image", [-1], False),
        ("labels", [-1], False),
        ("templates", [-1], True),
    ]
    assert all(item.data_type == model_config_pb2.TYPE_STRING for item in classify.input)
    assert json.loads((tmp_path / "out" / "classify" / "1" / "bundle" / "manifest.json").read_text())["graphs"]


def test_options_out_of_range_are_named_together() -> None:
    with pytest.raises(InputError, match=r"package: instances 0 \(1 or more\); platform x \(onnxruntime, .*\); give"):
        RepositoryOptions(instances=0, platform="x")  # type: ignore[arg-type]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "half").touch()
            raise BundleError("no")

    with pytest.raises(BundleError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "out") as folder:
        (folder / "whole").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]
    with pytest.raises(InputError, match="is there already"), new_folder(tmp_path / "out"):
        pass


def test_the_configuration_of_ray_is_what_serve_reads(bundle: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    schema = pytest.importorskip("ray.serve.schema")
    output = tmp_path / "internvl.yaml"
    options = RayServeOptions(replicas=3, gpus=0.5, http=8010)
    write_config(bundle, output, ServeOptions(max_batch=4, threads=2, bf16=True), options)
    read = schema.ServeDeploySchema.model_validate(yaml.safe_load(output.read_text()))
    (application,) = read.applications
    assert (application.name, read.http_options.port) == ("internvl", 8010)
    assert application.args["bundle"] == str(bundle.resolve())
    given = {
        name: value for name, value in application.args.items() if name not in ("bundle", "replicas", "cpus", "gpus")
    }
    assert serve_options(given) == ServeOptions(max_batch=4, threads=2, bf16=True)
    assert application.args["gpus"] == 0.5
    with pytest.raises(InputError, match="is there already"):
        write_config(bundle, output, ServeOptions(), options)


def test_of_a_chat_bundle_the_graph_of_tiles_is_packaged_and_chat_is_left_out(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = bundle / "manifest.json"
    manifest, chat = Manifest.load(path), chat_manifest()
    (bundle / "tokenizer").mkdir()
    (bundle / "tokenizer" / "vocab.json").write_text("{}")
    roles = {"vision": TILE_ENCODER, "text": LANGUAGE_MODEL}
    graphs = {name: replace(graph, use=GraphUse(role=roles[name])) for name, graph in manifest.graphs.items()}
    files = {**manifest.files, "tokenizer/vocab.json": _info(bundle / "tokenizer" / "vocab.json")}
    replace(manifest, model=chat.model, graphs=graphs, files=files).save(path)
    for platform in ("onnxruntime", "runtime"):
        folder = tmp_path / platform
        assert write_repository(bundle, folder, RepositoryOptions(platform=platform)) == ["vision"]
        assert [each.name for each in folder.iterdir()] == ["vision"]
    assert {record.getMessage() for record in caplog.records} == {
        "text: left out, Triton has no chat here; `internvl-edge serve` answers conversations"
    }
    replace(manifest, model=chat.model, graphs={"text": graphs["text"]}, files=files).save(path)
    with pytest.raises(BundleError, match=r"Triton has no chat here, and the bundle has nothing else; .*serve"):
        write_repository(bundle, tmp_path / "none", RepositoryOptions())
    assert not (tmp_path / "none").exists()
