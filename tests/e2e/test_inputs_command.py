"""Folders, tables and archives as a user gives them to `run`, and what becomes of what cannot be used."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.e2e.conftest import Run


def test_run_takes_folders_tables_and_archives(run: Run, demo_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in pictures.iterdir())[:3]
    (tmp_path / "in").mkdir()
    for name in names:
        shutil.copy(pictures / name, tmp_path / "in" / name)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for name in names:
            archive.write(pictures / name, name)
    rows = [{"file": str(pictures / name)} for name in names]
    (tmp_path / "t.csv").write_text("file\n" + "\n".join(row["file"] for row in rows))
    single = run(
        "run", "classify", demo_bundle, *(pictures / name for name in names), "-l", "gem", "-l", "cat", "--json"
    )
    together = run(
        "run", "classify", demo_bundle, *(tmp_path / name for name in ("in", "p.zip", "t.csv")),
        "-l", "gem", "-l", "cat", "--json",
    )  # fmt: skip
    assert together.returncode == 0, together.stderr
    scores = [row["scores"] for row in json.loads(single.stdout)]
    found = json.loads(together.stdout)
    for row, expected in zip(found, scores * 3, strict=True):
        np.testing.assert_allclose(row["scores"]["gem"], expected["gem"], atol=1e-4)
    assert [Path(row["image"]).name for row in found] == names * 3


def test_what_cannot_be_used_is_left_out_listed_and_counted(
    run: Run, demo_bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(pictures, folder)
    odd = os.fsdecode(b"caf\xe9.png")
    shutil.copy(next(pictures.iterdir()), folder / odd)
    (folder / f"lfs{odd}").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (folder / "notes.txt").write_text("no picture")
    Image.new("I;16", (70, 70), 40_000).save(folder / "wide.png")
    (tmp_path / "t.jsonl").write_text(f'{{"file": "in/wide.png"}}\n{{"image": "x"}}\n{{"file": {json.dumps(odd)}}}\n')
    done = run(
        "run", "embed", demo_bundle, folder, tmp_path / "t.jsonl",
        "-o", tmp_path / "f.npy", "--on-error", "skip", "--threads", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "left out: 1 no pictures by their names (.txt: 1)" in done.stderr
    assert len(np.load(tmp_path / "f.npy")) == 8 + 2 + 1
    bad = [json.loads(line) for line in (tmp_path / "f.bad.jsonl").read_text("utf-8").splitlines()]
    assert [row["reason"] for row in bad] == [
        "not a picture: a Git LFS pointer in place of the file: run git lfs pull",
        "no `file`, it has image",
        "no such file",
    ]
    assert os.fsencode(bad[0]["input"]).endswith(b"lfscaf\xe9.png")
    failed = run("run", "embed", demo_bundle, tmp_path / "t.jsonl", "-o", tmp_path / "g.npy")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(
        f"Error: {tmp_path / 't.jsonl'}: line 2: no `file`, it has image; repair or remove them"
    )
