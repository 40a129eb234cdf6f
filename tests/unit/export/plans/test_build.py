"""Bundle to plans with a builder that only writes bytes: what is built, kept, cut, given up, and recorded."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from internvl_edge.export.dialects import dialect_for
from internvl_edge.export.engine.blueprint import Blueprint
from internvl_edge.export.engine.build_process import BuilderMemoryError, Built, Job
from internvl_edge.export.engine.profiles import AxisRanges
from internvl_edge.export.plans.build import BuildOptions, BuildReport, build, build_plans
from internvl_edge.export.plans.build_report import build_text
from internvl_edge.export.plans.kit import KitReport
from internvl_edge.export.plans.lower_graph import block_bytes, lower_graph
from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.engines import EngineRecord, require_engines
from internvl_edge.runtime.byte_sizes import parse_bytes
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.file_copy import copy_file
from internvl_edge.runtime.inspect.graph_stats import axis_sizes, inspect_bundle, load_graph
from internvl_edge.runtime.inspect.shapes import Shapes
from internvl_edge.runtime.targets import flavour as flavours
from internvl_edge.runtime.targets.capability import capabilities
from internvl_edge.runtime.targets.estimate import Limits, host_peak_bytes
from internvl_edge.runtime.targets.flavour import Flavour
from internvl_edge.runtime.targets.targets import find_target
from tests.exports import Exports
from tests.tolerances import FP16_RELATIVE

TARGET = find_target("rtx-4090")
FLAVOUR = Flavour(
    name="tensorrt_rtx", trt=ModuleType("trt"), version="1.7.1", capabilities=capabilities(ModuleType("trt"))
)


class Writer:
    """A builder whose plans are the names of their graphs; `refuse` may raise instead."""

    def __init__(self, refuse: Callable[[Job], None] = lambda job: None) -> None:
        self.jobs: list[Job] = []
        self._refuse = refuse

    def __call__(self, job: Job) -> Built:
        self.jobs.append(job)
        assert job.onnx_file.is_file()
        self._refuse(job)
        content = job.onnx_file.name.encode()
        job.plan_file.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        return Built(bytes=len(content), sha256=digest, version="1.7.1", seconds=1.0, peak_bytes=1 << 20)

    @property
    def built(self) -> list[str]:
        return [job.onnx_file.stem for job in self.jobs]


@pytest.fixture(scope="module")
def exported(exports: Exports, golden_a: Path) -> Path:
    return exports.bundle(golden_a / "checkpoint", graphs=("vision", "text"))


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Bundle:
    """The bundle, in a folder of this test's own."""
    import shutil

    shutil.copytree(exported, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


def made(bundle: Bundle, builder: Writer, **settings: object) -> BuildReport:
    return build_plans(bundle, TARGET, FLAVOUR, BuildOptions(**settings), builder=builder)  # type: ignore[arg-type]


def test_plans_lie_in_the_targets_folder_with_a_record_that_fits(bundle: Bundle) -> None:
    report = made(bundle, Writer(), ranges=AxisRanges(batch=(1, 2, 4)))
    assert report.folder == bundle.path / "engines" / "rtx-4090"
    assert sorted(path.name for path in report.folder.iterdir()) == ["engine.json", "text.plan", "vision.plan"]
    record = require_engines(bundle, report.folder, flavour="tensorrt_rtx", version="1.7.1", sm=89)
    assert record == report.record
    assert [shape[0] for shape in record.graphs["vision"].profiles[0]["pixel_values"]] == [1, 2, 4]
    assert record.graphs["vision"].plans[0].outputs == ("vision_states", "image_embeds")


WITH_PLUGINS = replace(
    FLAVOUR, name="tensorrt", version="10.13.0", capabilities=replace(FLAVOUR.capabilities, plugins_aot=True)
)


def test_auto_leaves_attention_kernels_out_where_the_builder_refuses_them(bundle: Bundle) -> None:
    refused: list[str] = []

    def refuse(job: Job) -> None:
        if job.onnx_file.stem not in refused:
            refused.append(job.onnx_file.stem)
            raise EngineError("plugin refused")

    builder = Writer(refuse)
    report = build_plans(bundle, TARGET, WITH_PLUGINS, BuildOptions(graphs=("text",)), builder=builder)
    assert builder.built == ["text", "text"]
    assert report.record.graphs["text"].fell_back == "plugin refused"
    assert "text: built without attention kernels: plugin refused" in build_text(report)
    assert EngineRecord.load(report.folder) == report.record


@pytest.mark.parametrize("attention", ["plugin", "pattern"])
def test_what_was_asked_for_by_name_is_refused(bundle: Bundle, attention: str) -> None:
    def refuse(job: Job) -> None:
        raise EngineError("refused")

    options = BuildOptions(graphs=("text",), attention=attention)
    with pytest.raises(EngineError, match=r"^refused$"):
        build_plans(bundle, TARGET, WITH_PLUGINS, options, builder=Writer(refuse))


def test_plugins_that_our_runtime_launches_are_recorded_and_only_who_asks_gets_them(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(name="Orin", sm=87, memory_bytes=8 << 30, driver="12.6")
    monkeypatch.setattr(flavours, "find_device", lambda: device)
    capable = replace(FLAVOUR.capabilities, plugins_v3=True)
    flavour = replace(FLAVOUR, name="tensorrt", version="10.3.0", capabilities=capable)
    needed = (("qllama_text", "3"),)

    def builder(job: Job) -> Built:
        return replace(Writer()(job), plugins=needed)

    for attention, expected in (("plugin", ("plugin", "3")), ("auto", ("pattern", "1"))):
        options = BuildOptions(graphs=("text",), attention=attention)
        report = build_plans(bundle, find_target("orin-nano-8gb"), flavour, options, builder=builder)
        assert (report.record.flags["attention"], report.record.flags["plugin_version"]) == expected
        assert report.record.graphs["text"].plans[0].plugins == needed
        assert EngineRecord.load(report.folder) == report.record


def test_what_is_current_is_kept_and_what_is_not_is_built(bundle: Bundle) -> None:
    made(bundle, Writer())
    again = Writer()
    assert set(made(bundle, again).reused) == {"vision", "text"}
    assert again.built == []
    (bundle.path / "engines" / "rtx-4090" / "text.plan").write_bytes(b"damaged!!")
    made(bundle, again)
    assert again.built == ["text"]
    made(bundle, again, ranges=AxisRanges(batch=(1, 1, 2)))
    assert again.built == ["text", "vision", "text"]


def test_the_page_of_the_plans_lies_in_the_reports_and_a_plan_that_is_none_fails_nothing(bundle: Bundle) -> None:
    report = made(bundle, Writer())
    page = bundle.path / "reports" / "engine.html"
    assert report.page == page
    assert page.read_text().count("Not readable: no TensorRT plan") == 2
    assert f"{page}: their launches" in build_text(report)
    Bundle.open(bundle.path)
    page.unlink()
    assert set(made(bundle, Writer()).reused) == {"vision", "text"}
    assert page.exists()
    page.unlink()
    page.mkdir()
    assert "no page: " in build_text(made(bundle, Writer()))


def test_plans_that_do_not_show_launches_have_no_page(bundle: Bundle) -> None:
    flavour = replace(FLAVOUR, name="tensorrt", version="10.3.0")
    report = build_plans(bundle, TARGET, flavour, BuildOptions(graphs=("text",)), builder=Writer())
    assert "no page: plans of tensorrt do not show their launches" in build_text(report)
    assert not (bundle.path / "reports" / "engine.html").exists()


def test_plans_of_other_graphs_stay(bundle: Bundle) -> None:
    made(bundle, Writer(), graphs=("vision",))
    report = made(bundle, Writer(), graphs=("text",))
    assert sorted(report.record.graphs) == ["text", "vision"]
    require_engines(bundle, report.folder, flavour="tensorrt_rtx", version="1.7.1", sm=89)


def test_a_refusal_leaves_the_earlier_plans(bundle: Bundle) -> None:
    made(bundle, Writer())
    before = EngineRecord.load(bundle.path / "engines" / "rtx-4090")

    def refuse(job: Job) -> None:
        raise EngineError("text.onnx: no")

    with pytest.raises(EngineError, match="no"):
        made(bundle, Writer(refuse), ranges=AxisRanges(batch=(1, 1, 2)))
    assert EngineRecord.load(bundle.path / "engines" / "rtx-4090") == before
    assert [path.name for path in (bundle.path / "engines").iterdir()] == ["rtx-4090"]


def test_a_killed_build_goes_on_where_it_was(bundle: Bundle) -> None:
    def die(job: Job) -> None:
        if job.onnx_file.stem == "text":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(bundle, Writer(die))
    assert not (bundle.path / "engines" / "rtx-4090").exists()
    again = Writer()
    made(bundle, again)
    assert again.built == ["text"]
    assert sorted(path.name for path in (bundle.path / "engines").iterdir()) == ["rtx-4090"]


def test_memory_that_runs_out_cuts_the_graph_and_says_so(bundle: Bundle) -> None:
    def large(job: Job) -> None:
        if "." not in job.onnx_file.stem and job.onnx_file.stem.startswith("vision"):
            raise BuilderMemoryError("vision.onnx: out of memory")

    report = made(bundle, Writer(large), graphs=("vision",))
    engines = report.record.graphs["vision"]
    assert len(engines.plans) >= 2
    assert [plan.file for plan in engines.plans] == [f"vision.{i}.plan" for i in range(len(engines.plans))]
    assert engines.gave_up[-1].startswith("parts of")
    assert "workspace 256 MiB" in engines.gave_up
    require_engines(bundle, report.folder, flavour="tensorrt_rtx", version="1.7.1", sm=89)


def test_a_limit_cuts_before_anything_fails(bundle: Bundle) -> None:
    report = made(bundle, Writer(), graphs=("vision",), limits=Limits(host_bytes=1))
    engines = report.record.graphs["vision"]
    assert len(engines.plans) >= 3, "a block each at least"
    assert engines.gave_up == ()


def smallest_build(bundle: Bundle, name: str) -> int:
    """The memory that building a graph one block at a time is predicted to take."""
    return host_peak_bytes(block_bytes(ir.load(bundle.graph_file(name))))


@pytest.mark.parametrize("target", ["sm_89", "agx-orin-64gb"])
def test_a_limit_below_one_block_is_refused_with_what_suffices(bundle: Bundle, tmp_path: Path, target: str) -> None:
    needed = smallest_build(bundle, "text")
    assert needed > smallest_build(bundle, "vision")
    for limit in (4, needed - 1):
        options = BuildOptions(target=target, limits=Limits(host_bytes=limit), output=tmp_path / "kit")
        with pytest.raises(
            EngineError, match=r"^--max-host-mem .*: building a block is predicted to take more"
        ) as told:
            build(bundle.path, options)
        (suffices,) = re.findall(r"give (\S+) or more", str(told.value))
        assert parse_bytes(suffices) >= needed
        assert ("vision" in str(told.value)) == (limit == 4), "graphs for which it suffices are not named"
    assert not (tmp_path / "kit").exists()


def test_a_kit_is_cut_when_it_is_made(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(host_bytes=smallest_build(bundle, "vision"))
    folders = {"whole": Limits(), "cut": limits}
    for name, given in folders.items():
        options = BuildOptions(target="agx-orin-64gb", graphs=("vision",), limits=given, output=tmp_path / name)
        assert isinstance(build(bundle.path, options), KitReport)
    kits = {name: Blueprint.load(tmp_path / name) for name in folders}
    assert [list(kit.graphs) for kit in kits.values()] == [["vision"], ["vision"]]
    assert len(kits["whole"].graphs["vision"].parts) == 1
    assert len(kits["cut"].graphs["vision"].parts) >= 3
    device = replace(FLAVOUR, name="tensorrt", version="10.3.0")
    monkeypatch.setattr("internvl_edge.export.plans.build.flavour_for", lambda target: device)
    monkeypatch.setattr("internvl_edge.export.plans.build.build_plans", lambda *rest: "built")
    with pytest.raises(EngineError, match=r"a part of the kit is .*, or make the kit with this limit$"):
        build(tmp_path / "whole", BuildOptions(limits=limits))
    assert build(tmp_path / "cut", BuildOptions(limits=limits)) == "built"


def test_parts_in_a_chain_compute_what_the_graph_does(bundle: Bundle, rng: np.random.Generator, tmp_path: Path) -> None:
    dialect = dialect_for(attention=True, wanted="auto")
    whole = lower_graph(bundle, "vision", dialect, None, tmp_path / "whole", place_file=copy_file)
    cut = lower_graph(bundle, "vision", dialect, 1, tmp_path / "cut", place_file=copy_file)
    assert len(whole.parts) == 1 < len(cut.parts)
    assert sum(part.weight_bytes for part in cut.parts) == whole.parts[0].weight_bytes
    values = {"pixel_values": rng.normal(size=(2, 3, 56, 56)).astype(np.float32)}
    expected = _run(tmp_path / "whole" / whole.parts[0].file, values)
    for part in cut.parts:
        values |= _run(tmp_path / "cut" / part.file, {spec.name: values[spec.name] for spec in part.inputs})
    for name, value in expected.items():
        bound = FP16_RELATIVE * float(np.abs(value).max())  # kernels that would fuse over a cut round there
        np.testing.assert_allclose(values[name], value, atol=bound, rtol=0)


def test_what_cannot_be_built_here_becomes_a_kit_that_the_device_builds_from(bundle: Bundle, tmp_path: Path) -> None:
    made_kit = build(bundle.path, BuildOptions(target="agx-orin-64gb", output=tmp_path / "kit"))
    assert isinstance(made_kit, KitReport)
    kit = Bundle.open(tmp_path / "kit")
    blueprint = Blueprint.load(kit.path)
    assert (blueprint.target, blueprint.sm) == ("agx-orin-64gb", 87)
    assert "trtexec --onnx=onnx/fp16/vision.onnx" in (kit.path / "trtexec.sh").read_text()
    assert kit.path.joinpath("tokenizer.model").exists()
    device = replace(FLAVOUR, name="tensorrt", version="10.3.0")
    writer = Writer()
    report = build_plans(kit, find_target("agx-orin-64gb"), device, BuildOptions(), blueprint, builder=writer)
    assert writer.built == ["vision", "text"]
    require_engines(kit, report.folder, flavour="tensorrt", version="10.3.0", sm=87)


def test_a_kit_on_another_machine_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    build(bundle.path, BuildOptions(target="agx-orin-64gb", output=tmp_path / "kit"))
    with pytest.raises(EngineError, match=r"a kit for agx-orin-64gb .*here is .*copy it to the device"):
        build(tmp_path / "kit", BuildOptions())
    with pytest.raises(EngineError, match=r"--target l4: .* is a kit for agx-orin-64gb"):
        build(tmp_path / "kit", BuildOptions(target="l4"))


def test_a_device_sees_into_a_kit(bundle: Bundle, tmp_path: Path) -> None:
    """Its graphs have every shape; attention as a pattern takes the FLOPs of the operator."""
    build(bundle.path, BuildOptions(target="agx-orin-64gb", output=tmp_path / "kit"))
    kit = Bundle.open(tmp_path / "kit")
    assert [g.flops for g in inspect_bundle(kit.path).graphs] == [g.flops for g in inspect_bundle(bundle.path).graphs]
    for name in kit.manifest.graphs:
        model = load_graph(kit, name)
        shapes = Shapes(name, model, axis_sizes(kit.manifest.graphs[name], kit.manifest.model.num_query_tokens))
        assert [value for node in model.nodes for value in node.outputs if value and shapes.find(value) is None] == []


def test_a_device_builds_without_torch_and_onnx(bundle: Bundle, tmp_path: Path) -> None:
    build(bundle.path, BuildOptions(target="agx-orin-64gb", output=tmp_path / "kit"))
    code = f"""
import hashlib, sys
from types import ModuleType
for heavy in ("torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "safetensors", "jinja2"):
    sys.modules[heavy] = None
from pathlib import Path
from internvl_edge.export.engine.blueprint import Blueprint
from internvl_edge.export.engine.build_process import Built
from internvl_edge.export.plans.build import BuildOptions, build_plans
from internvl_edge.export.plans.build_report import build_text
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.targets.capability import capabilities
from internvl_edge.runtime.targets.flavour import Flavour
from internvl_edge.runtime.targets.targets import find_target
def builder(job):
    job.plan_file.write_bytes(b"plan")
    return Built(bytes=4, sha256=hashlib.sha256(b"plan").hexdigest(), version="10.3", seconds=1.0, peak_bytes=1)
trt = ModuleType("trt")
flavour = Flavour(name="tensorrt", trt=trt, version="10.3", capabilities=capabilities(trt))
kit = Bundle.open(Path({str(tmp_path / "kit")!r}))
orin = find_target("agx-orin-64gb")
report = build_plans(kit, orin, flavour, BuildOptions(), Blueprint.load(kit.path), builder=builder)
print(build_text(report))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "vision.plan" in done.stdout


def test_a_target_is_needed(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="no target given; add --target"):
        build(bundle.path, BuildOptions())


def test_an_unknown_attention() -> None:
    with pytest.raises(EngineError, match="--attention flash: unknown; choose from auto, op, pattern"):
        BuildOptions(attention="flash")


def _run(file: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
