"""Answers of exported language models on ONNX Runtime against those that the reference generated, id by id."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.tasks.chat.batch import PromptBatch
from internvl_edge.runtime.tasks.chat.decoder import LanguageModel
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.generated import Generated
from internvl_edge.runtime.tasks.generation.scoring import answer_log_probabilities
from internvl_edge.runtime.tasks.generation.search import generate, log_softmax
from tests.exports import Exports
from tests.golden_chat import CASES, GoldenChat, golden_chat
from tests.tolerances import CHAT_LOGITS

NEW_TOKENS = 24
CHECKPOINTS = (*((case, "checkpoint") for case in CASES), ("c2", "checkpoint_hf"), ("c5", "checkpoint_official"))
"""Cases, and the folders of the same weights in the other layout."""
Exported = Callable[..., InternVL]


@dataclass(frozen=True)
class Recorded:
    """A case, and its exported language model."""

    golden: GoldenChat
    model: InternVL
    language: LanguageModel

    def batch(self, run: str) -> PromptBatch:
        """Return the prompts of a run with the recorded embeddings of its tiles."""
        tensors = self.golden.tensors
        return PromptBatch(
            input_ids=tensors[f"{run}.input_ids"].astype(np.int64),
            attention_mask=tensors[f"{run}.attention_mask"],
            vit_embeds=tensors.get(f"{run}.vit_embeds"),
            context_token_id=self.golden.about["img_context_token_id"],
        )

    def answered(self, run: str, **settings: object) -> Generated:
        """Return the answers to the prompts of a run."""
        pad = self.golden.about["runs"][run]["pad_token_id"]
        config = GenerationConfig(max_new_tokens=NEW_TOKENS, pad_token_id=pad, **settings)  # type: ignore[arg-type]
        with self.language.decoder(self.batch(run), NEW_TOKENS, beams=config.num_beams) as decoder:
            return generate(decoder, config)

    def recorded_steps(self, run: str) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the steps whose logits ``[B, V]`` are recorded: all, or the first two and the last."""
        logits = self.golden.tensors[f"{run}.step_logits"]
        steps = range(NEW_TOKENS) if logits.shape[1] == NEW_TOKENS else (0, 1, NEW_TOKENS - 1)
        yield from ((step, logits[:, index]) for index, step in enumerate(steps))


@pytest.fixture(params=CHECKPOINTS, ids=lambda value: "/".join(value))
def recorded(request: pytest.FixtureRequest, exported: Exported) -> Iterator[Recorded]:
    case, folder = request.param
    golden = golden_chat(case)
    model = exported(golden.folder / folder, dtype="fp32")
    language = LanguageModel.of(model)
    yield Recorded(golden, model, language)
    language.close()


def each_run(recorded: Recorded) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the runs of a case and what golden.json says of them; the first one finds no kept prompt."""
    for run in recorded.golden.runs:
        yield run, recorded.golden.about["runs"][run]


def padded(rows: list[list[int]], width: int, pad: int) -> list[list[int]]:
    return [[*row, *[pad] * width][:width] for row in rows]


def test_greedy_ids_and_their_probabilities(recorded: Recorded) -> None:
    for run, about in each_run(recorded):
        found = recorded.answered(run, eos_token_ids=(about["eos_token_id"],), log_probabilities=5)
        np.testing.assert_array_equal(found.ids, recorded.golden.tensors[f"{run}.greedy_ids"], err_msg=run)
        assert set(found.finish_reasons) == {"length"}
        for step, logits in recorded.recorded_steps(run):
            expected, likely = log_softmax(logits), found.log_probabilities[step]
            chosen = np.take_along_axis(expected, found.ids[:, step : step + 1], axis=1)[:, 0]
            np.testing.assert_allclose(likely.chosen, chosen, atol=CHAT_LOGITS, err_msg=f"{run}, step {step}")
            best = np.take_along_axis(expected, likely.ids, axis=1)
            np.testing.assert_allclose(likely.values, best, atol=CHAT_LOGITS, err_msg=f"{run}, step {step}")


def test_beams_and_their_scores(recorded: Recorded) -> None:
    for run, about in each_run(recorded):
        found = recorded.answered(run, num_beams=3, eos_token_ids=(about["eos_token_id"],))
        np.testing.assert_array_equal(found.ids, recorded.golden.tensors[f"{run}.beam3_ids"], err_msg=run)
        assert found.scores is not None
        np.testing.assert_allclose(found.scores, recorded.golden.tensors[f"{run}.beam3_score"], atol=1e-5, err_msg=run)


@pytest.mark.parametrize(("name", "beams"), [("stop_test", 1), ("beam_stop_test", 3)])
def test_ids_that_stop(recorded: Recorded, name: str, beams: int) -> None:
    for run, about in each_run(recorded):
        stop = about[name]
        assert isinstance(stop, dict)
        found = recorded.answered(run, num_beams=beams, eos_token_ids=(stop["eos_token_id"],))
        width = found.ids.shape[1]  # ours ends with the longest row, the reference's may be wider
        pad = about["pad_token_id"]
        assert isinstance(pad, int)
        assert found.ids.tolist() == padded(stop["ids"], width, pad), run
        rest = [token for row in stop["ids"] for token in row[width:]]
        assert set(rest) <= {pad}
        for row, reason in zip(found.ids.tolist(), found.finish_reasons, strict=True):
            assert (reason == "stop") == (stop["eos_token_id"] in row), run
        if found.scores is not None:
            np.testing.assert_allclose(found.scores, stop["score"], atol=1e-5, err_msg=run)


def test_chunks_of_a_prompt_change_nothing(recorded: Recorded) -> None:
    small = replace(recorded, language=LanguageModel.of(recorded.model, chunk=14))
    for run, about in each_run(recorded):
        found = small.answered(run, eos_token_ids=(about["eos_token_id"],))
        np.testing.assert_array_equal(found.ids, recorded.golden.tensors[f"{run}.greedy_ids"], err_msg=run)


def test_a_given_answer_has_the_recorded_probabilities(recorded: Recorded) -> None:
    for run, _ in each_run(recorded):
        answers = recorded.golden.tensors[f"{run}.greedy_ids"]
        with recorded.language.decoder(recorded.batch(run), NEW_TOKENS) as decoder:
            found = np.stack(answer_log_probabilities(decoder, answers.tolist()))
        for step, logits in recorded.recorded_steps(run):
            expected = np.take_along_axis(log_softmax(logits), answers[:, step : step + 1], axis=1)[:, 0]
            np.testing.assert_allclose(found[:, step], expected, atol=CHAT_LOGITS, err_msg=f"{run}, step {step}")


@pytest.mark.parametrize("beams", [1, 3])
def test_pictures_and_ids_go_in_and_ids_come_out(recorded: Recorded, beams: int) -> None:
    """From tiles through all graphs, with the model's own end and padding."""
    chat = recorded.model.info.chat
    assert chat is not None
    tensors, name = recorded.golden.tensors, "stop_test" if beams == 1 else "beam_stop_test"
    for run, about in each_run(recorded):
        prompts = (
            tensors.get(f"{run}.pixel_values"),
            tensors[f"{run}.input_ids"].astype(np.int64),
            tensors[f"{run}.attention_mask"],
        )
        found = recorded.model.generate_chat(*prompts, num_beams=beams, max_new_tokens=NEW_TOKENS)
        expected = tensors[f"{run}.{'greedy_ids' if beams == 1 else 'beam3_ids'}"]
        np.testing.assert_array_equal(found, expected, err_msg=run)
        stop = about[name]
        assert isinstance(stop, dict)
        ended = recorded.model.generate_chat(
            *prompts, num_beams=beams, max_new_tokens=NEW_TOKENS, eos_token_id=stop["eos_token_id"]
        )
        assert ended.tolist() == padded(stop["ids"], ended.shape[1], chat.pad_token_id), run


@pytest.mark.parametrize("case", ["c2", "c4"])
def test_openvino_answers_the_same(case: str, exports: Exports) -> None:
    """A left-padded batch, prompts that begin like the last one, and lengths that change the angles."""
    pytest.importorskip("openvino", reason="needs openvino: pip install 'internvl-edge[openvino]'")
    golden = golden_chat(case)
    with InternVL.open(exports.bundle(golden.checkpoint, dtype="fp32"), "openvino") as model:
        recorded = Recorded(golden, model, LanguageModel.of(model))
        for run, about in each_run(recorded):
            for name, beams in (("greedy_ids", 1), ("beam3_ids", 3)):
                found = recorded.answered(run, num_beams=beams, eos_token_ids=(about["eos_token_id"],))
                np.testing.assert_array_equal(found.ids, golden.tensors[f"{run}.{name}"], err_msg=f"{run}, {name}")
        recorded.language.close()
