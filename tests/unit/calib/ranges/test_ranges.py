"""Ranges on disk: what is read is what was written, shards add up to one run, and what does not fit is refused."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.calib.ranges.collector import KEPT_ROWS, Key
from internvl_edge.calib.ranges.observer import Statistics
from internvl_edge.calib.ranges.stored import (
    MARKER,
    Ranges,
    RangesInfo,
    block_file,
    check_fits,
    merge_ranges,
    open_ranges,
    save_block,
    save_info,
)
from internvl_edge.runtime.errors import CalibrationError
from tests.unit.calib.observed import observed

BLOCKS = ("tower.layers.0", "tower.layers.1")
KEYS: tuple[Key, ...] = (("vision", "tower.layers.0.fc1"), ("query", "tower.layers.0.fc1"), ("vision", "residual"))
INFO = RangesInfo(
    checkpoint="models/intern",
    fingerprint="a" * 64,
    image_size=224,
    data=({"source": "süß.jsonl", "sha256": "1", "pictures": 16, "texts": 3, "unreadable": ["x.png"]},),
    method="auto",
    compute="float32",
    producer={"internvl-edge": "0"},
    code="c",
    graphs=("vision", "query"),
    blocks=BLOCKS,
)
Write = Callable[..., Ranges]


def of_shard(data: str, **changes: object) -> RangesInfo:
    return replace(INFO, data=({"source": data, "sha256": data, "pictures": 16},), **changes)


@pytest.fixture
def batches(rng: np.random.Generator) -> list[np.ndarray]:
    """Four batches ``[20, 5]``."""
    return list(rng.normal(size=(4, 20, 5)).astype(np.float32))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, info: RangesInfo, found: Mapping[Key, Statistics]) -> Ranges:
        folder = tmp_path / name
        folder.mkdir()
        for path in info.blocks:
            save_block(folder, path, found)
        save_info(folder, info)
        return open_ranges(folder)

    return written


def of_batches(batches: list[np.ndarray]) -> dict[Key, Statistics]:
    return {key: observed([batch * (1 + index) for batch in batches]) for index, key in enumerate(KEYS)}


def same(found: Statistics, wanted: Statistics) -> None:
    np.testing.assert_array_equal(found.amax, wanted.amax)
    np.testing.assert_array_equal(found.magnitudes.counts, wanted.magnitudes.counts)
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.curve, wanted.curve)
    assert (found.counted_rows, found.token_amax) == (wanted.counted_rows, wanted.token_amax)


def test_what_is_read_is_what_was_written(write: Write, batches: list[np.ndarray]) -> None:
    wanted = of_batches(batches)
    ranges = write("ranges", INFO, wanted)
    assert ranges.info == INFO
    found = ranges.block(BLOCKS[1])
    assert set(found) == set(KEYS)
    for key in KEYS:
        same(found[key], wanted[key])
    assert {path.name for path in ranges.folder.iterdir()} == {MARKER, *(f"{path}.safetensors" for path in BLOCKS)}


def test_a_folder_without_its_marker_is_no_ranges(write: Write, batches: list[np.ndarray]) -> None:
    folder = write("ranges", INFO, of_batches(batches)).folder
    (folder / MARKER).unlink()
    with pytest.raises(CalibrationError, match=r"no ranges\.json in it; give a folder that internvl-edge calibrate"):
        open_ranges(folder)


def test_another_schema_names_both(write: Write, batches: list[np.ndarray]) -> None:
    marker = write("ranges", INFO, of_batches(batches)).folder / MARKER
    marker.write_text(json.dumps(json.loads(marker.read_text(encoding="utf-8")) | {"schema": 7}), encoding="utf-8")
    with pytest.raises(CalibrationError, match="schema 7, this version reads 2; calibrate again"):
        open_ranges(marker.parent)


def test_damage_is_said_in_one_line(write: Write, batches: list[np.ndarray]) -> None:
    ranges = write("ranges", INFO, of_batches(batches))
    file = block_file(ranges.folder, BLOCKS[0])
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CalibrationError, match=r"layers\.0\.safetensors: is damaged .*; calibrate again"):
        ranges.block(BLOCKS[0])
    with pytest.raises(CalibrationError, match=r"no statistics of tower\.layers\.9; calibrate this checkpoint again"):
        ranges.block("tower.layers.9")
    (ranges.folder / MARKER).write_text('{"schema": 1, ', encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"ranges\.json: is damaged .*; calibrate again"):
        open_ranges(ranges.folder)


def test_ranges_of_something_else_name_both_sides(tmp_path: Path) -> None:
    ranges = Ranges(tmp_path, INFO)
    check_fits(ranges, INFO.fingerprint, 224, "models/intern")
    with pytest.raises(
        CalibrationError, match=r"models/intern \(aaaaaaaaaaaa\), not on models/other \(bbbbbbbbbbbb\);"
    ):
        check_fits(ranges, "b" * 64, 224, "models/other")
    with pytest.raises(CalibrationError, match=r"at 224 px, the export is at 448 px; calibrate with --image-size 448"):
        check_fits(ranges, INFO.fingerprint, 448, "models/intern")


def test_merged_shards_are_one_run(write: Write, batches: list[np.ndarray], tmp_path: Path) -> None:
    shards = [
        write(name, of_shard(name), of_batches(part))
        for name, part in (("a", batches[:1]), ("b", batches[1:3]), ("c", batches[3:]))
    ]
    folder = tmp_path / "merged"
    folder.mkdir()
    info = merge_ranges(shards, folder)
    save_info(folder, info)
    merged = open_ranges(folder)
    assert [entry["sha256"] for entry in merged.info.data] == ["a", "b", "c"]
    assert replace(merged.info, data=()) == replace(INFO, data=())
    for path in BLOCKS:
        found = merged.block(path)
        for key, wanted in of_batches(batches).items():
            same(found[key], wanted)
            assert len(found[key].rows) == min(KEPT_ROWS, 80)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (of_shard("b", fingerprint="b" * 64), r"\(bbbbbbbbbbbb\), not on models/intern \(aaaaaaaaaaaa\); calibrate"),
        (of_shard("b", image_size=448), r"at 448 px, .* 224 px; calibrate with --image-size 224"),
        (of_shard("b", graphs=("vision",)), r"measured \(\('vision',\), .* measured .*'query'.*; use equal settings"),
        (of_shard("b", compute="bfloat16"), r"bfloat16.*float32.*; use equal settings"),
        (of_shard("a"), "two shards are of the same data; give each part of the data once"),
    ],
)
def test_shards_that_do_not_belong_together(
    write: Write, batches: list[np.ndarray], tmp_path: Path, other: RangesInfo, message: str
) -> None:
    found = of_batches(batches)
    shards = [write("a", of_shard("a"), found), write("b", other, found)]
    target = tmp_path / "merged"
    target.mkdir()
    with pytest.raises(CalibrationError, match=message) as caught:
        merge_ranges(shards, target)
    assert "\n" not in str(caught.value)
    assert not list(target.iterdir()), "refused before anything is written"
