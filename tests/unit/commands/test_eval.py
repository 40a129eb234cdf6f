"""`eval`: what it passes on, and what it prints."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from internvl_edge.calib.evaluation import EvalOptions
from internvl_edge.calib.evaluation.questions.run import AnswerOptions
from internvl_edge.commands.eval import evaluate
from tests.unit.commands.conftest import Invoke, Replace

WORK = "internvl_edge.calib.evaluation.evaluate_bundle"
TEXT = "internvl_edge.calib.evaluation.evaluation_text"


@pytest.mark.parametrize(("form", "printed"), [((), "the table\n"), (("--json",), '{\n  "a": 1\n}\n')])
def test_options_reach_the_evaluation_and_its_report_is_printed(
    replace: Replace, invoke: Invoke, form: tuple[str, ...], printed: str
) -> None:
    found = Mock()
    found.to_json.return_value = {"a": 1}
    work, text = replace(WORK, found), replace(TEXT, "the table")
    asked = "b --data d --baseline o --sample-count 9 --languages en,zh --tasks captions --backend auto --bf16"
    done = invoke(evaluate, asked, "--max-new-tokens 7", *form)
    bundle, data, options, baseline, _progress = work.call_args.args
    assert (bundle, data, baseline) == (Path("b"), Path("d"), Path("o"))
    assert options == EvalOptions(
        tasks=("captions",), sample_count=9, languages=("en", "zh"), backend="auto", bf16=True, max_new_tokens=7
    )
    text.assert_called_once_with(found.report, found.baseline, found.cosines)
    assert done.stdout == printed


def test_what_is_left_out_has_the_default_of_the_evaluation(replace: Replace, invoke: Invoke) -> None:
    work = replace(WORK, Mock())
    replace(TEXT, "")
    invoke(evaluate, "b", "--data", "d")
    _bundle, _data, options, baseline, _progress = work.call_args.args
    assert options == EvalOptions()
    assert baseline is None


class TestQuestions:
    """A table with a field `question` is one of questions."""

    WORK = "internvl_edge.calib.evaluation.questions.run.evaluate_answers"
    TEXT = "internvl_edge.calib.evaluation.questions.text.answers_text"

    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        path = tmp_path / "q.jsonl"
        path.write_text('{"question": "Why?", "answer": "so"}\n')
        return path

    @pytest.mark.parametrize(("form", "printed"), [((), "the table\n"), (("--json",), '{\n  "a": 1\n}\n')])
    def test_options_reach_the_evaluation(
        self, replace: Replace, invoke: Invoke, table: Path, form: tuple[str, ...], printed: str
    ) -> None:
        found = Mock()
        found.to_json.return_value = {"a": 1}
        work, _ = replace(self.WORK, found), replace(self.TEXT, "the table")
        asked = "--baseline o --sample-count 9 --backend auto --bf16 --max-new-tokens 7"
        done = invoke(evaluate, "b", "--data", table, asked, *form)
        bundle, data, options, baseline, _progress = work.call_args.args
        assert (bundle, data, baseline) == (Path("b"), table, Path("o"))
        assert options == AnswerOptions(sample_count=9, backend="auto", bf16=True, max_new_tokens=7)
        assert done.stdout == printed

    def test_options_of_captions_are_refused(self, invoke: Invoke, table: Path) -> None:
        done = invoke(evaluate, "b", "--data", table, "--tasks captions --languages en")
        assert done.exit_code == 2
        assert "--tasks and --languages: of pictures with captions, but --data holds questions" in done.stderr
