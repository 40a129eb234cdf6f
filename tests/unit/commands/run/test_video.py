"""`run video`: what it asks, and how the ranking is printed."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np

from internvl_edge.commands.run.video import video
from tests.unit.commands.conftest import Invoke, Replace


def test_texts_are_ranked_for_each_video(invoke: Invoke, replace: Replace, model: Mock) -> None:
    rank = replace("internvl_edge.runtime.tasks.video.rank_texts", np.array([[0.25, 0.75], [0.5, 0.125]]))
    done = invoke(video, "b", "x.gif", "y", "-t", "cat", "-t", "kite", "--frames", "3", "--mode", "g")
    assert done.stdout == "x.gif\n     0.750  kite\n     0.250  cat\ny\n     0.500  cat\n     0.125  kite\n"
    assert rank.call_args.args[:-1] == (model, (Path("x.gif"), Path("y")), ("cat", "kite"), 3, "g")
