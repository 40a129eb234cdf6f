"""`run classify`: what it asks of the model, and how the classes are printed."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from internvl_edge.commands.run.classify import classify
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.source import PictureFile
from internvl_edge.runtime.tasks.classification import DEFAULT_TEMPLATES
from tests.unit.commands.conftest import Invoke


@pytest.mark.parametrize(("given", "passed"), [((), None), (("--template", "'a {}'"), ("a {}",))])
def test_the_best_label_comes_first(
    invoke: Invoke, model: Mock, picture: Path, given: tuple[str, ...], passed: tuple[str, ...] | None
) -> None:
    done = invoke(classify, "b", picture, "-l", "cat", "-l", "kite", *given)
    assert done.stdout == f"{picture}\n     0.750  kite\n     0.250  cat\n"
    (pictures, labels), settings = model.classify.call_args
    assert (pictures, labels, settings["templates"]) == ([PictureFile(picture)], ("cat", "kite"), passed)


def test_without_a_template_the_name_alone_is_the_text(invoke: Invoke) -> None:
    assert DEFAULT_TEMPLATES == ("{}",)
    assert "default: ('{}', the name alone)" in " ".join(invoke(classify, "--help").stdout.split())


def test_a_label_that_is_given_twice_is_refused(invoke: Invoke, model: Mock, picture: Path) -> None:
    with pytest.raises(InputError, match="--label: given more than once: 'cat'"):
        invoke(classify, "b", picture, "-l", "cat", "-l", "cat")
    model.opened.assert_not_called()
