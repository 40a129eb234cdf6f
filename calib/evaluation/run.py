"""Evaluate a bundle on labelled pictures, and a baseline on the same pictures."""

from pathlib import Path

from internvl_edge.calib.data.dataset import DataSet, open_data
from internvl_edge.calib.evaluation.eval_report import EvalReport, Evaluation
from internvl_edge.calib.evaluation.features import measure
from internvl_edge.calib.evaluation.options import EvalOptions
from internvl_edge.calib.evaluation.score import cosines, score
from internvl_edge.calib.evaluation.selection import check_labels
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.progress import Progress, Silent


def evaluate_bundle(
    bundle: Path, data: Path, options: EvalOptions, baseline: Path | None = None, progress: Progress | None = None
) -> Evaluation:
    """Evaluate a bundle on a data set, and a baseline on the same rows.

    Raises:
        EdgeError: a bundle or the data cannot be read, or the data has no labels and there is no baseline.
    """
    content = open_data(data)
    if baseline is None:
        check_labels(content, options)
    with (progress or Silent()).task("Opening", 1 if baseline is None else 2, "bundles") as advance:
        model = _opened(bundle, options, options.bf16)
        advance(1)
        reference = None if baseline is None else _opened(baseline, options, bf16=False)
        advance(0 if baseline is None else 1)
    features = measure(model, content, options, progress)
    report = score(features, content, options)
    if reference is None:
        return Evaluation(report=report)
    del model  # its graphs leave memory before the baseline's are loaded
    other = measure(reference, content, options, progress)
    return Evaluation(report=report, baseline=score(other, content, options), cosines=cosines(features, other))


def evaluate(model: InternVL, data: DataSet, options: EvalOptions, progress: Progress | None = None) -> EvalReport:
    """Return the figures of an opened bundle on labelled pictures.

    Raises:
        InputError: data without labels for any of the tasks.
        BundleError: features are NaN, infinite or all 0.
    """
    check_labels(data, options)
    return score(measure(model, data, options, progress), data, options)


def _opened(bundle: Path, options: EvalOptions, bf16: bool) -> InternVL:
    settings = SessionOptions(bf16=bf16, rows=options.batch_size)
    return InternVL.open(bundle, backend=options.backend, batch_size=options.batch_size, options=settings)
