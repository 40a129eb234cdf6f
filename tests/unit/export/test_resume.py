"""What an interrupted run leaves is taken up by the same run alone."""

from pathlib import Path

import pytest

from internvl_edge.export.staging import staged
from internvl_edge.runtime.errors import ExportError


def _interrupted(output: Path, key: str) -> None:
    with pytest.raises(KeyboardInterrupt), staged(output, key) as staging:  # noqa: PT012
        (staging.folder / "half").write_text("done")
        staging.finish("first", {"value": 1})
        raise KeyboardInterrupt


def test_the_same_run_takes_up_finished_stages(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    _interrupted(output, "key")
    assert not output.exists()
    with staged(output, "key") as staging:
        assert staging.finished("first") == {"value": 1}
        assert staging.finished("second") is None
        assert (staging.folder / "half").exists()
    assert sorted(path.name for path in output.iterdir()) == ["half"]


def test_another_run_starts_anew(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    _interrupted(output, "key of fp16")
    with staged(output, "key of fp32") as staging:
        assert staging.finished("first") is None
        assert not (staging.folder / "half").exists()


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="broken"), staged(tmp_path / "b", "k") as staging:  # noqa: PT012
        (staging.folder / "half").write_text("done")
        raise ExportError("thing: broken; mend it")
    assert list(tmp_path.iterdir()) == []


def test_an_operating_system_error_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No space left on device; free space"), staged(tmp_path / "b", "key"):
        raise OSError(28, "No space left on device", "weights.safetensors")
    assert list(tmp_path.iterdir()) == []
