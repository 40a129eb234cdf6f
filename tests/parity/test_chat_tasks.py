"""Answers of exported bundles against those of the reference: ids of every recorded run, and conversations."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.manifest import TilingInfo
from internvl_edge.runtime.tasks.opened import BATCH_SIZE
from tests.exports import Exports
from tests.golden_chat import CASES, GoldenChat, golden_chat

RUNS = [(case, run) for case in CASES for run in golden_chat(case).runs]
PICTURED = [(case, run) for case in CASES for run in ("single", "multi", "turns") if run in golden_chat(case).runs]
NEW_TOKENS = 24
RECORDED = TilingInfo(fewest=1, most=12, thumbnail=True)
"""Tiling of the records: with a thumbnail also in c3, whose config has no tiles."""
Opened = Callable[[str], InternVL]


@pytest.fixture(scope="module")
def opened(exports: Exports) -> Opened:
    """Open the bundle of a case in fp32; all of its tests share one model."""
    models: dict[str, InternVL] = {}

    def model(case: str) -> InternVL:
        if case not in models:
            bundle = Bundle.open(exports.bundle(golden_chat(case).checkpoint, dtype="fp32"))
            described = replace(bundle.manifest.model, tiling=RECORDED)
            manifest = replace(bundle.manifest, model=described)
            models[case] = InternVL(Bundle(bundle.path, manifest), "onnxruntime", BATCH_SIZE)
        return models[case]

    return model


def generated(model: InternVL, golden: GoldenChat, run: str, **settings: Any) -> np.ndarray:
    """Return the ids that a model generates for a recorded prompt."""
    tensors = golden.tensors
    return model.generate_chat(
        tensors.get(f"{run}.pixel_values"),
        tensors[f"{run}.input_ids"],
        tensors[f"{run}.attention_mask"],
        **{"max_new_tokens": NEW_TOKENS, "eos_token_id": (), **settings},
    )


@pytest.mark.parametrize(("case", "run"), RUNS)
def test_greedy_ids(opened: Opened, case: str, run: str) -> None:
    golden = golden_chat(case)
    found = generated(opened(case), golden, run)
    np.testing.assert_array_equal(found, golden.tensors[f"{run}.greedy_ids"])


@pytest.mark.parametrize(("case", "run"), RUNS)
def test_ids_of_three_beams(opened: Opened, case: str, run: str) -> None:
    golden = golden_chat(case)
    found = generated(opened(case), golden, run, num_beams=3)
    np.testing.assert_array_equal(found, golden.tensors[f"{run}.beam3_ids"])


@pytest.mark.parametrize(("name", "beams"), [("stop_test", 1), ("beam_stop_test", 3)])
@pytest.mark.parametrize(("case", "run"), RUNS)
def test_ids_up_to_one_that_ends_a_row(opened: Opened, case: str, run: str, name: str, beams: int) -> None:
    golden = golden_chat(case)
    recorded = golden.about["runs"][run][name]
    found = generated(opened(case), golden, run, num_beams=beams, eos_token_id=recorded["eos_token_id"])
    np.testing.assert_array_equal(found, recorded["ids"])


@pytest.mark.parametrize(("case", "run"), PICTURED)
def test_a_conversation(opened: Opened, case: str, run: str) -> None:
    """Tiles, prompt and answer from the pictures and texts of the record."""
    golden, model = golden_chat(case), opened(case)
    asked = _asked(next(row for row in golden.prompts["prompts"] if row["run"] == run))
    pictures = [golden.folder / "pictures" / f"picture_{index}.png" for index in asked["pictures"]]
    limits = [golden.about["tile_limits"][index] for index in asked["pictures"]]
    settings = {"history": asked["history"], "system": asked["system"], "max_tiles": limits}
    reply = model.chat(asked["question"], pictures, max_new_tokens=NEW_TOKENS, **settings)
    ids = golden.tensors[f"{run}.greedy_ids"][0].tolist()
    assert reply.prompt_tokens == golden.tensors[f"{run}.input_ids"].shape[1]
    assert reply.ids == ids[: len(reply.ids)]
    assert len(reply.ids) == NEW_TOKENS
    text = golden.about["runs"][run]["text"]
    assert reply.text == (text if isinstance(text, str) else text[0]).strip()
    stream = model.chat_stream(asked["question"], pictures, max_new_tokens=NEW_TOKENS, **settings)
    assert "".join(stream) == reply.text


def _asked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return question, history, system text and pictures of a recorded prompt, in the official form."""
    if "messages" not in row:
        history = [(question, answer) for question, answer in row["history"] or ()]
        return {"question": row["question"], "history": history, "system": None, "pictures": row["pictures"]}
    texts = [(message["role"], _text(message["content"])) for message in row["messages"]]
    system = texts.pop(0)[1] if texts[0][0] == "system" else None
    *turns, (_, question) = texts
    history = [(turns[index][1], turns[index + 1][1]) for index in range(0, len(turns), 2)]
    return {"question": question, "history": history, "system": system, "pictures": row["pictures"]}


def _text(content: str | list[Mapping[str, str]]) -> str:
    """Return a message of the native layout with `<image>` and a newline for each picture."""
    if isinstance(content, str):
        return content
    return "".join("<image>\n" if item["type"] == "image" else item["text"] for item in content)


def test_the_goldens_are_where_they_are_expected() -> None:
    assert len(RUNS) >= 6 * 5
    assert len(PICTURED) == 18
    assert all(Path(golden_chat(case).checkpoint).is_dir() for case in CASES)
