"""Cached features are not computed again; the cache never exceeds its bytes, with any number of threads."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl_edge.runtime.embed.picture_cache import PictureCache, encode_images_cached
from internvl_edge.runtime.errors import InputError
from tests.unit.runtime.embed_fakes import fake_model, greys, write_pictures


@settings(max_examples=60)
@given(
    capacity=st.integers(0, 100),
    steps=st.lists(st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), st.integers(0, 9))), max_size=40),
)
def test_it_is_a_bounded_dictionary_that_forgets_what_was_used_longest_ago(
    capacity: int, steps: list[tuple[str, int | None]]
) -> None:
    cache = PictureCache(capacity)
    model: dict[str, np.ndarray] = {}  # in order of use
    for key, size in steps:
        if size is None:
            row = cache.get(key)
            assert (row is None) == (key not in model)
            if row is not None:
                np.testing.assert_array_equal(row, model[key])
                model[key] = model.pop(key)
            continue
        row = np.full(size, len(model), np.float32)
        cache.put(key, row)
        model.pop(key, None)
        if row.nbytes <= capacity:
            model[key] = row
        while sum(row.nbytes for row in model.values()) > capacity:
            model.pop(next(iter(model)))
        assert cache.held_bytes == sum(row.nbytes for row in model.values()) <= capacity
    assert cache.hits + cache.misses == sum(size is None for _, size in steps)


def test_rows_are_copies_that_nobody_can_change() -> None:
    cache = PictureCache(1000)
    row = np.ones(4, np.float32)
    cache.put("a", row)
    row[:] = 2
    held = cache.get("a")
    assert held is not None
    np.testing.assert_array_equal(held, 1)
    with pytest.raises(ValueError, match="read-only"):
        held[0] = 3


def test_threads_share_it() -> None:
    cache = PictureCache(40)  # ten rows of four bytes

    def use(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for key in map(str, rng.integers(0, 20, 500)):
            row = cache.get(key)
            assert row is None or row[0] == int(key)
            cache.put(key, np.array([int(key)], np.float32))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert cache.held_bytes == 40
    assert cache.hits + cache.misses == 8 * 500


def test_a_negative_capacity_is_refused() -> None:
    with pytest.raises(InputError, match="-1 bytes; give 0 or more"):
        PictureCache(-1)


def test_only_pictures_of_new_content_are_computed(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, ran = fake_model(bundle_folder, monkeypatch)
    paths = write_pictures(tmp_path / "p", 4)
    copy = Path(shutil.copy(paths[2], tmp_path / "another name"))
    cache = PictureCache(1 << 20)
    features = encode_images_cached(model, [*paths, copy, paths[0]], "c", cache)
    np.testing.assert_array_equal(features, model.encode_image([*paths, copy, paths[0]]))
    assert ran.pop(0) == ("vision", 4)
    ran.clear()
    assert greys(encode_images_cached(model, [copy, paths[3]], "c", cache)) == [2, 3]
    assert ran == []
    Image.new("RGB", (5, 5), (9, 9, 9)).save(paths[3])
    assert greys(encode_images_cached(model, paths, "c", cache)) == [0, 1, 2, 9]
    assert ran == [("vision", 1)]


def test_pictures_in_memory_go_by_their_pixels(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    model, ran = fake_model(bundle_folder, monkeypatch)
    array = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    cache = PictureCache(1 << 20)
    turned = array.reshape(6, 4, 3)  # the same bytes in another shape
    features = encode_images_cached(model, [array, Image.fromarray(array), turned], "c", cache)
    assert ran == [("vision", 2)]
    np.testing.assert_array_equal(features[0], features[1])


def test_a_cache_that_holds_nothing_changes_no_result(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, ran = fake_model(bundle_folder, monkeypatch)
    paths = write_pictures(tmp_path / "p", 70)
    assert greys(encode_images_cached(model, paths, "c", PictureCache(0))) == list(range(70))
    assert sum(rows for _, rows in ran) == 70


def test_all_unreadable_pictures_are_reported_before_any_is_computed(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, ran = fake_model(bundle_folder, monkeypatch)
    paths = write_pictures(tmp_path / "p", 40)
    paths[35].write_text("no")
    with pytest.raises(InputError, match=r"035.png \(not a picture\), .*gone.png \(no such file\)"):
        encode_images_cached(model, [*paths, tmp_path / "gone.png"], "c", PictureCache(1000))
    with pytest.raises(InputError, match="no input given"):
        encode_images_cached(model, [], "c", PictureCache(1000))
    assert ran == []
