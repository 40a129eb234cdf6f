"""Plans are asked what they are before TensorRT is: for another bundle, library or device they do not open."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.engines import (
    EngineRecord,
    GraphEngines,
    PlanRecord,
    require_engines,
    scales_digest,
    weight_digests,
)
from internvl_edge.runtime.errors import BundleError

PROFILE = {"x": ((1, 3), (2, 3), (8, 3))}
HERE = {"flavour": "tensorrt", "version": "10.3.0", "sm": 87}


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    return Bundle.open(bundle_folder)


@pytest.fixture
def folder(bundle: Bundle) -> Path:
    """Plans of `vision` in two parts."""
    place = bundle.path / "engines" / "agx-orin-64gb"
    place.mkdir(parents=True)
    plans = []
    for number in range(2):
        content = f"plan {number}".encode()
        (place / f"vision.{number}.plan").write_bytes(content)
        plans.append(
            PlanRecord(
                file=f"vision.{number}.plan",
                bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                inputs=("x",),
                outputs=("y",),
                seconds=1.5,
                peak_bytes=1 << 30,
            )
        )
    graph = bundle.manifest.files[bundle.manifest.graphs["vision"].file].sha256
    engines = GraphEngines(graph_sha256=graph, key="k", profiles=(PROFILE,), plans=tuple(plans), gave_up=("batch 4",))
    EngineRecord(
        target="agx-orin-64gb",
        sm=87,
        flavour="tensorrt",
        version="10.3.0",
        driver="12.6",
        flags={"attention": "pattern"},
        weights=weight_digests(bundle),
        scales_sha256=scales_digest(bundle),
        graphs={"vision": engines},
    ).save(place)
    return place


def test_what_is_read_is_what_was_written(folder: Path) -> None:
    record = EngineRecord.load(folder)
    again = folder / "again"
    again.mkdir()
    record.save(again)
    assert EngineRecord.load(again) == record
    assert record.graphs["vision"].profiles == (PROFILE,)
    assert [plan.file for plan in record.graphs["vision"].plans] == ["vision.0.plan", "vision.1.plan"]


def test_plugins_that_a_plan_needs_are_kept_and_older_records_have_none(folder: Path) -> None:
    record = EngineRecord.load(folder)
    vision = record.graphs["vision"]
    plans = (replace(vision.plans[0], plugins=(("vit_attention", "3"),)), vision.plans[1])
    replace(record, graphs={"vision": replace(vision, plans=plans)}).save(folder)
    assert EngineRecord.load(folder).graphs["vision"].plans == plans
    path = folder / "engine.json"
    content = json.loads(path.read_text())
    for plan in content["graphs"]["vision"]["plans"]:
        del plan["plugins"]
    path.write_text(json.dumps(content))
    assert EngineRecord.load(folder) == record


def test_plans_for_this_bundle_library_and_device_open(bundle: Bundle, folder: Path) -> None:
    assert require_engines(bundle, folder, **HERE).graphs["vision"].gave_up == ("batch 4",)  # type: ignore[arg-type]


def refusal(bundle: Bundle, folder: Path, **changed: object) -> str:
    with pytest.raises(BundleError) as caught:
        require_engines(bundle, folder, **{**HERE, **changed})  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert f"internvl-edge build {bundle.path} --target agx-orin-64gb" in message
    return message


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"version": "10.7.0"}, "built by tensorrt 10.3.0, here is 10.7.0"),
        ({"flavour": "tensorrt_rtx"}, "built by tensorrt, here is tensorrt_rtx"),
        ({"sm": 110}, "built for sm_87, this device is sm_110"),
    ],
)
def test_another_library_or_device_names_both_sides(
    bundle: Bundle, folder: Path, changed: dict[str, object], words: str
) -> None:
    assert words in refusal(bundle, folder, **changed)


def test_damage_of_any_kind_is_named_with_the_file(bundle: Bundle, folder: Path) -> None:
    (folder / "vision.0.plan").write_bytes(b"pla")
    (folder / "vision.1.plan").write_bytes(b"plan 9")
    message = refusal(bundle, folder)
    assert "vision.0.plan has 3 bytes instead of 6" in message
    assert "vision.1.plan is not as it was built" in message
    (folder / "vision.0.plan").unlink()
    assert "vision.0.plan is missing" in refusal(bundle, folder)


def test_plans_of_another_graph_other_weights_or_other_scales(bundle: Bundle, folder: Path) -> None:
    record = EngineRecord.load(folder)
    engines = replace(record.graphs["vision"], graph_sha256="0" * 64)
    replace(record, graphs={"vision": engines}, weights={"weights.safetensors": "0"}, scales_sha256="1").save(folder)
    message = refusal(bundle, folder)
    assert "vision was built from another graph" in message
    assert "other weights" in message
    assert "other scales" in message


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "not json",
        lambda text: json.dumps([]),
        lambda text: json.dumps({**json.loads(text), "schema": 99}),
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "sm"}),
        lambda text: text.replace('"plans"', '"plane"'),
    ],
)
def test_a_damaged_record_is_one_line(folder: Path, damage: Callable[[str], str]) -> None:
    path = folder / "engine.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(BundleError, match="build the plans again"):
        EngineRecord.load(folder)


def test_no_record_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no engine.json; run `internvl-edge build`"):
        EngineRecord.load(tmp_path)
