"""The samples of a calibration: which pictures, which captions and prompts in turn, and what is refused."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl_edge.calib.data.calibration import FEWEST, CalibrationData, load_data, model_inputs
from internvl_edge.calib.data.dataset import digest_of
from internvl_edge.calib.data.synthetic import STOCK_TEXTS, synthetic_ids, synthetic_pixels
from internvl_edge.runtime.bundle.tokenizer import TEXT_PREFIX
from internvl_edge.runtime.errors import CalibrationError
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing, preprocess
from internvl_edge.runtime.tasks.captions import DEFAULT_PROMPT

SETTINGS = Preprocessing(image_size=4)
FLAT, BROKEN = "flat", "broken"
PROMPTS: dict[str, Any] = {
    "caption_prompts": {"en": "English:"},
    "classes": ["cat", "dog"],
    "class_names": {"en": ["cat", "dog"], "de": ["Katze"], "it": ["gatto"]},
    "templates": {"en": ["a {c}", "one {c}"], "de": ["{c}"]},
}


def write(folder: Path, count: int, kinds: dict[int, str] | None = None, captions: object = None) -> str:
    """Write `count` pictures and a table of them; `kinds` says which are of one colour, and which no pictures."""
    lines = []
    for index in range(count):
        path, kind = folder / f"{index:02}.png", (kinds or {}).get(index)
        values = np.random.default_rng(index).integers(0, 255, (4, 4, 3), np.uint8)
        if kind == BROKEN:
            path.write_bytes(b"no picture")
        else:
            Image.fromarray(np.full_like(values, 9) if kind == FLAT else values).save(path)
        row = {"file": path.name} | ({} if captions is None else {"caption": captions})
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return str(folder / "rows.jsonl")


def test_samples_are_spread_over_the_set(tmp_path: Path) -> None:
    source = write(tmp_path, 40)
    found = load_data(source, SETTINGS, 20)
    files = [tmp_path / f"{index:02}.png" for index in range(0, 40, 2)]
    np.testing.assert_array_equal(found.pixel_values, preprocess(files, SETTINGS))
    assert found.source == source
    assert found.sha256 == digest_of([*(file.read_bytes() for file in files), *(t.encode() for t in found.texts)])
    assert (found.unreadable, found.class_texts) == ((), ())


def test_captions_of_all_languages_take_turns_with_their_prompts(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    source = write(tmp_path, 16, captions={"en": ["a", "b"], "de": ["c"]})
    found = load_data(source, SETTINGS, 16)
    assert found.texts == ("a", "b", "c") * 5 + ("a",)
    assert found.prompts == ("English:", "English:", DEFAULT_PROMPT) * 5 + ("English:",)


def test_stock_texts_where_there_are_no_captions(tmp_path: Path) -> None:
    found = load_data(write(tmp_path, 16), SETTINGS, 16)
    assert found.texts == STOCK_TEXTS * 4
    assert found.prompts == (DEFAULT_PROMPT,) * 16


def test_class_texts_are_spread_over_languages_classes_and_templates(tmp_path: Path) -> None:
    """Six languages of one class with six templates make 36 texts; of 16 samples every 2.25th counts."""
    names = {f"l{i}": ["x"] for i in range(6)}
    templates = {f"l{i}": [f"{i}{j}{{c}}" for j in range(6)] for i in range(6)}
    (tmp_path / "prompts.json").write_text(json.dumps({"class_names": names, "templates": templates}))
    texts = [f"{i}{j}x" for i in range(6) for j in range(6)]
    found = load_data(write(tmp_path, 16), SETTINGS, 16)
    assert found.class_texts == tuple(texts[int(index * 2.25)] for index in range(16))


def test_few_class_texts_are_all_taken(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    found = load_data(write(tmp_path, 16), SETTINGS, 16)
    assert found.class_texts == ("a cat", "one cat", "a dog", "one dog", "Katze")


@pytest.mark.parametrize(("count", "fits"), [(FEWEST, True), (FEWEST - 1, False)])
def test_too_few_samples(tmp_path: Path, count: int, fits: bool) -> None:
    source = write(tmp_path, count)
    if fits:
        assert len(load_data(source, SETTINGS, 99).texts) == count
        assert len(load_data("random", SETTINGS, count).texts) == count
        return
    with pytest.raises(CalibrationError, match=f"{count} samples, ranges need at least 16; give more pictures"):
        load_data(source, SETTINGS, 99)
    with pytest.raises(CalibrationError, match=f"--sample-count {count}: ranges need at least 16; raise it"):
        load_data("random", SETTINGS, count)


@pytest.mark.parametrize("kind", [FLAT, BROKEN])
@pytest.mark.parametrize(("bad", "fits"), [(2, True), (3, False)])
def test_one_picture_in_twenty_may_be_bad(tmp_path: Path, kind: str, bad: int, fits: bool) -> None:
    source = write(tmp_path, 40, dict.fromkeys(range(bad), kind))
    if fits:
        found = load_data(source, SETTINGS, 40)
        assert len(found.texts) == (40 if kind == FLAT else 38)
        assert [name.split(" ")[0] for name in found.unreadable] == ([] if kind == FLAT else ["00.png", "01.png"])
        return
    finding = "have one colour only .00.png, 01.png, 02.png." if kind == FLAT else "cannot be read .00.png"
    with pytest.raises(CalibrationError, match=f"3 of 40 pictures {finding}"):
        load_data(source, SETTINGS, 40)


def test_eight_bad_pictures_are_named_and_the_others_counted(tmp_path: Path) -> None:
    names = ", ".join(f"{index:02}.png" for index in range(8))
    with pytest.raises(CalibrationError, match=f"{names} and 2 more"):
        load_data(write(tmp_path, 20, dict.fromkeys(range(10), FLAT)), SETTINGS, 20)


def test_a_picture_of_one_colour_in_one_channel_only_is_none(tmp_path: Path) -> None:
    source = write(tmp_path, 16)
    for index in range(16):
        values = np.random.default_rng(index).integers(0, 255, (4, 4, 3), np.uint8)
        values[..., 1] = 0
        Image.fromarray(values).save(tmp_path / f"{index:02}.png")
    assert len(load_data(source, SETTINGS, 16).texts) == 16


def test_random_pictures() -> None:
    found = load_data("random", SETTINGS, 18)
    np.testing.assert_array_equal(found.pixel_values, synthetic_pixels(4, 18))
    assert found.texts == (STOCK_TEXTS * 5)[:18]
    assert found.prompts == (DEFAULT_PROMPT,) * 18
    assert (found.source, found.sha256) == ("random", hashlib.sha256(found.pixel_values.tobytes()).hexdigest())


def test_synthetic_pictures_are_a_gradient_plus_noise_of_a_half() -> None:
    """A gradient from -1 to 1 is odd: what opposite pixels sum to is noise alone, of 0.5 times the root of 2."""
    pixels = synthetic_pixels(64, 16)
    assert (pixels.shape, pixels.dtype) == ((16, 3, 64, 64), np.float32)
    np.testing.assert_array_equal(pixels, synthetic_pixels(64, 16))
    assert (pixels.min(), pixels.max()) == (np.float32(-2.1), np.float32(2.6))
    inside = (np.abs(pixels).max(axis=(2, 3)) < 2.0)[..., None, None]
    sums = (pixels + pixels[..., ::-1, ::-1])[np.broadcast_to(inside, pixels.shape)]
    assert sums.std() == pytest.approx(0.5 * np.sqrt(2), rel=0.03)
    slopes = np.random.default_rng(0).normal(size=(16, 3, 2)).astype(np.float32)
    rows = pixels.mean(axis=3)[..., -1] - pixels.mean(axis=3)[..., 0]
    gentle = np.abs(slopes).sum(axis=2) < 1
    np.testing.assert_allclose(rows[gentle], 2 * slopes[..., 0][gentle], atol=0.35)


def test_random_ids_are_no_special_tokens_but_the_first() -> None:
    ids = synthetic_ids(50, 9, 7)
    assert ids.shape == (50, 9)
    assert set(ids[:, 0]) == {1}
    assert set(ids[:, 1:].ravel()) == {3, 4, 5, 6}
    np.testing.assert_array_equal(ids, synthetic_ids(50, 9, 7))


class Words:
    """A tokenizer whose ids are lengths: bos, the prefix's length where there is one, the text's, eos."""

    def encode_texts(self, texts: Sequence[str], *, prefix: str) -> np.ndarray:
        return np.array([[1, *([len(prefix)] if prefix else []), len(text), 2] for text in texts])

    def encode_prompt(self, prompt: str) -> np.ndarray:
        return np.array([[1, *([7] * len(prompt))]])


def given(source: str = "set") -> CalibrationData:
    return CalibrationData(
        pixel_values=np.zeros((2, 3, 4, 4), np.float32),
        texts=("abc", "de"),
        prompts=("p", "qq"),
        class_texts=("x",),
        source=source,
        sha256="",
    )


def test_texts_as_each_graph_takes_them() -> None:
    """A caption follows its prompt without a second bos; shorter rows end in zeros."""
    data = given()
    found = model_inputs(data, Words(), 99)  # type: ignore[arg-type]
    assert found.pixel_values is data.pixel_values
    assert found.ids("texts").tolist() == [[1, len(TEXT_PREFIX), size, 2] for size in (3, 2, 1)]  # type: ignore[union-attr]
    assert found.ids("pairs").tolist() == [[1, 3, 2], [1, 2, 2]]  # type: ignore[union-attr]
    assert found.ids("prompts").tolist() == [[1, 7, 3, 2, 0], [1, 7, 7, 2, 2]]  # type: ignore[union-attr]


def test_random_ids_stand_in_beside_random_pictures_only() -> None:
    found = model_inputs(given("random"), None, 99)
    for kind in ("texts", "prompts", "pairs"):
        np.testing.assert_array_equal(found.ids(kind), synthetic_ids(2, 16, 99))
    with pytest.raises(CalibrationError, match=r"the checkpoint has no tokenizer.model, so captions cannot be read"):
        model_inputs(given(), None, 99)


def test_a_model_without_texts() -> None:
    found = model_inputs(given(), None, None)
    assert [found.ids(kind) for kind in ("texts", "prompts", "pairs")] == [None, None, None]
