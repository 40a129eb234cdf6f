"""`doctor`: of this machine, or of a bundle for a target."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from internvl_edge.commands.doctor import doctor
from tests.unit.commands.conftest import Invoke, Replace


@pytest.mark.parametrize(
    ("asked", "passed"), [((), (None, None)), (("b --target l4",), (Path("b"), "l4"))], ids=["machine", "bundle"]
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_was_found_is_printed(
    replace: Replace, invoke: Invoke, asked: tuple[str, ...], passed: tuple[Path | None, str | None], as_json: bool
) -> None:
    found = Mock()
    found.to_json.return_value = {"python": "3.11"}
    diagnose = replace("internvl_edge.runtime.inspect.doctor.diagnose", found)
    replace("internvl_edge.runtime.inspect.doctor.diagnosis_text", "Python 3.11")
    done = invoke(doctor, *asked, *(["--json"] if as_json else []))
    diagnose.assert_called_once_with(*passed)
    assert done.stdout == ('{\n  "python": "3.11"\n}\n' if as_json else "Python 3.11\n")
