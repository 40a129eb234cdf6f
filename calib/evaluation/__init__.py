"""Evaluation of a bundle on labelled pictures: recall, zero-shot accuracy, captions, cosines to another bundle."""

from internvl_edge.calib.evaluation.eval_report import EvalReport, Evaluation
from internvl_edge.calib.evaluation.features import Features, measure
from internvl_edge.calib.evaluation.options import EvalOptions
from internvl_edge.calib.evaluation.run import evaluate, evaluate_bundle
from internvl_edge.calib.evaluation.score import cosines, score
from internvl_edge.calib.evaluation.text import evaluation_text

__all__ = [
    "EvalOptions",
    "EvalReport",
    "Evaluation",
    "Features",
    "cosines",
    "evaluate",
    "evaluate_bundle",
    "evaluation_text",
    "measure",
    "score",
]
