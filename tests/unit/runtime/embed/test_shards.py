"""A killed run is resumed with its complete shards of unchanged inputs and equal settings, by one run at a time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_edge.runtime.embed.shards import Part, Shard, ShardFolder, complete
from internvl_edge.runtime.errors import InputError

SETTINGS = {"mode": "c", "batch size": 2}


class Killed(BaseException):
    """Stands in for the end of the process."""


def compute(
    batch: int, asked: list[int], die_at: int | None = None
) -> Callable[[Sequence[int]], Generator[Part, None, None]]:
    """Return a function that gives each input as its feature; every third input is bad."""

    def parts(inputs: Sequence[int]) -> Generator[Part, None, None]:
        for first in range(0, len(inputs), batch):
            chosen = inputs[first : first + batch]
            if die_at in chosen:
                raise Killed
            asked.extend(chosen)
            good = [index for index in chosen if index % 3]
            bad = tuple((f"input {index}", "third") for index in chosen if index % 3 == 0)
            yield Part(np.array(good, np.float32).reshape(-1, 1), tuple(map(str, good)), bad)

    return parts


def values(folder: ShardFolder, shards: Sequence[Shard]) -> list[float]:
    return [
        value
        for index, shard in enumerate(shards)
        if shard.names
        for value in np.load(folder.rows_file(index))[:, 0].tolist()
    ]


def ignore(amount: int) -> None:
    pass


def identities(count: int) -> list[str]:
    return [f"picture {index}" for index in range(count)]


@settings(max_examples=40)
@given(count=st.integers(0, 30), batch=st.integers(1, 4), batches=st.integers(1, 4), die_at=st.integers(0, 30))
def test_a_run_killed_anywhere_and_taken_up_gives_the_same(
    tmp_path_factory: pytest.TempPathFactory, count: int, batch: int, batches: int, die_at: int
) -> None:
    folder = ShardFolder(tmp_path_factory.mktemp("killed") / "f.npy")
    size = batch * batches
    first: list[int] = []
    with folder.opened(SETTINGS):
        try:
            complete(folder, identities(count), size, compute(batch, first, die_at), ignore)
        except Killed:
            assert die_at < count
    second: list[int] = []
    told: list[int] = []
    with folder.opened(SETTINGS):
        shards, computed = complete(folder, identities(count), size, compute(batch, second), told.append)
        good = [index for index in range(count) if index % 3]
        assert values(folder, shards) == good
        assert [name for shard in shards for name in shard.names] == list(map(str, good))
        assert sum(told) == count
        assert computed == len(second) == count - (count if die_at >= count else die_at // size * size)
        assert folder.rows() == len(good)
        folder.remove()
    assert not folder.path.exists()


@pytest.fixture
def finished(tmp_path: Path) -> ShardFolder:
    """Ten inputs in shards of four."""
    folder = ShardFolder(tmp_path / "f.npy")
    with folder.opened(SETTINGS):
        complete(folder, identities(10), 4, compute(2, []), ignore)
    return folder


def again(folder: ShardFolder, names: list[str]) -> list[int]:
    """Return what another run computes."""
    asked: list[int] = []
    with folder.opened(SETTINGS):
        complete(folder, names, 4, compute(2, asked), ignore)
    return asked


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: cut(folder.path / "000001.npy"),
        lambda folder: (folder.path / "000001.npy").unlink(),
        lambda folder: (folder.path / "000001.json").unlink(),
        lambda folder: cut(folder.path / "000001.json"),
        lambda folder: (folder.path / "000001.json").write_text("[]"),
        lambda folder: (folder.path / "000001.json").write_text('{"names": 3, "bad": [], "inputs": "", "sha256": ""}'),
    ],
)
def test_a_damaged_shard_alone_is_computed_again(finished: ShardFolder, damage: Callable[[ShardFolder], None]) -> None:
    assert again(finished, identities(10)) == []
    damage(finished)
    assert again(finished, identities(10)) == [4, 5, 6, 7]
    assert again(finished, identities(10)) == []


def test_changed_inputs_alone_are_computed_again(finished: ShardFolder) -> None:
    changed = identities(10)
    changed[5] = "picture 5, larger"
    assert again(finished, changed) == [4, 5, 6, 7]
    assert again(finished, changed[:9]) == [8]


def test_other_settings_are_refused_naming_both_sides(finished: ShardFolder) -> None:
    with (
        pytest.raises(InputError, match=r"\.f\.npy\.partial .*\(mode c instead of g\); finish that run .* or remove"),
        finished.opened({**SETTINGS, "mode": "g"}),
    ):
        pass
    (finished.path / "settings.json").write_text("[3]")
    with pytest.raises(InputError, match=r"settings\.json: cannot be read .*remove"), finished.opened(SETTINGS):
        pass


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom internvl_edge.runtime.embed.shards import ShardFolder\n"
        "with ShardFolder(pathlib.Path(sys.argv[1])).opened({}): print('ok')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "f.npy")]
    with ShardFolder(tmp_path / "f.npy").opened({}):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "f.npy: another run is writing it" in second.stderr
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "ok\n"


def test_a_place_that_is_taken_or_closed_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".f.npy.partial").write_text("a file")
    with (
        pytest.raises(InputError, match=r"\.f\.npy\.partial: cannot be used"),
        ShardFolder(tmp_path / "f.npy").opened({}),
    ):
        pass


def test_a_full_disk_is_reported_and_leaves_no_half_shard(
    finished: ShardFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    (finished.path / "000002.json").unlink()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"000002\.npy: cannot be written \(No space left on device\); make room"):
        again(finished, identities(10))
    monkeypatch.undo()
    assert not list(finished.path.glob("*.tmp"))
    assert again(finished, identities(10)) == [8, 9]


def test_names_that_are_no_unicode_come_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")

    def one(inputs: Sequence[int]) -> Generator[Part, None, None]:
        yield Part(np.ones((1, 1), np.float32), (name,))

    folder = ShardFolder(tmp_path / "f.npy")
    for _ in range(2):
        with folder.opened({}):
            (shard,), _ = complete(folder, [name], 1, one, ignore)
        assert shard.names == (name,)
    assert json.loads((folder.path / "000000.json").read_text())["names"] == [name]
