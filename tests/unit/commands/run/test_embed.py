"""`run embed`: pictures or texts, here or on a cluster, and what an interruption leaves."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from internvl_edge.commands.run.embed import embed
from internvl_edge.runtime.embed.options import EmbedOptions
from internvl_edge.runtime.inputs.pictures.source import PictureFile
from internvl_edge.runtime.ray.engine import RayOptions
from tests.unit.commands.conftest import Invoke, Replace

EMBEDDING = "internvl_edge.runtime.embed.embedding"


@pytest.fixture
def report() -> Mock:
    report = Mock()
    report.summary.return_value = "f.npz: 1 x 8"
    return report


def test_pictures_and_texts_go_into_one_file(
    invoke: Invoke, replace: Replace, model: Mock, picture: Path, report: Mock
) -> None:
    work = replace(f"{EMBEDDING}.embed", report)
    asked = "-t cat -t kite -o f.npz --mode g --dtype float16 --batch-size 4 --workers 2 --on-error skip"
    done = invoke(embed, "b", picture, asked)
    settings = work.call_args.kwargs
    assert work.call_args.args == (model,)
    assert settings["pictures"] == [PictureFile(picture)]
    assert settings["texts"] == ("cat", "kite")
    assert settings["engine"] is None
    assert settings["options"] == EmbedOptions(
        output=Path("f.npz"), mode="g", dtype="float16", batch_size=4, workers=2, on_error="skip"
    )
    assert done.stdout == "f.npz: 1 x 8\n"
    assert model.opened.call_args.kwargs["batch_size"] == 1, "no larger than what there is"


def test_a_column_of_a_table_is_texts_alone(
    invoke: Invoke, replace: Replace, model: Mock, tmp_path: Path, report: Mock
) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text('{"name": "cat"}\n{"name": "kite"}\n')
    work = replace(f"{EMBEDDING}.embed_texts", report)
    invoke(embed, "b", table, "--text-column", "name", "-o", "f.npy")
    assert work.call_args.kwargs["texts"] == ["cat", "kite"]
    assert work.call_args.kwargs["options"] == EmbedOptions(output=Path("f.npy"))
    assert model.opened.call_args.kwargs["batch_size"] == 2


def test_a_column_and_single_texts_exclude_each_other(invoke: Invoke, model: Mock) -> None:
    done = invoke(embed, "b", "t.csv", "--text-column", "name", "-t", "cat", "-o", "f.npz")
    assert done.exit_code == 2
    assert "--text-column embeds a table alone: leave -t out" in done.stderr
    model.opened.assert_not_called()


def test_a_cluster_gets_the_request_and_its_own_workers(
    invoke: Invoke, replace: Replace, model: Mock, picture: Path, report: Mock
) -> None:
    work = replace(f"{EMBEDDING}.embed", report)
    engine = object()
    cluster = replace("internvl_edge.runtime.ray.engine.RayEngine", engine)
    asked = "--engine ray --workers 3 --gpus 0.5 --threads 2 --bf16 --backend onnxruntime -o f.npz"
    invoke(embed, "b", picture, asked)
    cluster.assert_called_once_with(
        model.bundle,
        RayOptions(workers=3, backend="onnxruntime", threads=2, bf16=True, gpus=0.5, max_pixels=None),
    )
    assert work.call_args.kwargs["engine"] is engine
    assert work.call_args.kwargs["options"].workers is None, "they are the cluster's"


def test_an_interruption_says_what_is_kept(
    invoke: Invoke, replace: Replace, model: Mock, picture: Path, tmp_path: Path
) -> None:
    replace(f"{EMBEDDING}.embed").side_effect = KeyboardInterrupt
    done = invoke(embed, "b", picture, "-o", tmp_path / "f.npz")
    assert done.exit_code == 130
    assert done.stderr == f"{tmp_path / 'f.npz'}: interrupted, nothing was finished yet; run it again\n"
    model.close.assert_called_once_with()
