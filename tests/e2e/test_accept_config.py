"""A field that no table knows stops an export by name, until the user declares that it has no effect."""

import json
from pathlib import Path

from tests.e2e.conftest import Run
from tests.unit.export.checkpoint.checkpoint_folders import CONFIG, tower, write_config, write_safetensors


def test_unknown_fields_are_named_accepted_and_recorded(run: Run, tmp_path: Path) -> None:
    folder = write_config(tmp_path / "ckpt", {**CONFIG, "window": 7, "note": "of ours", "dropout": 0.1})
    write_safetensors(folder, tower())
    command = ["export", folder, "-o", tmp_path / "bundle", "--dtype", "fp32"]
    refused = run(*command)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "window = 7, note = 'of ours'" in refused.stderr
    assert "--accept-config window --accept-config note" in refused.stderr
    done = run(*command, "--accept-config", "window", "--accept-config", "note", "--accept-config", "absent")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["accepted_config"] == ["window", "note"]
    compared = run("compare", tmp_path / "bundle", folder, "--data", _picture(tmp_path), "--sample-count", 1)
    assert compared.returncode == 0, compared.stderr


def _picture(folder: Path) -> Path:
    from PIL import Image

    (folder / "pictures").mkdir()
    Image.new("RGB", (30, 30), (10, 200, 30)).save(folder / "pictures" / "a.png")
    return folder / "pictures"
