"""Predicting throughput: the paper's Eq. 2 and 3, and a model from bytes and measured roofs.

``points`` is what both are fitted to and scored on; ``paper`` is Eq. 2 and 3; ``roofs`` is what a machine can do, ``roofline``
the model made of it; ``calibration`` holds both models of one machine and goes to and from JSON. Nothing here measures anything,
``lowprec.report.model`` does. docs/performance-model.md has the formulas in words.
"""

from lowprec.perfmodel.calibration import Calibration, load
from lowprec.perfmodel.paper import CAP, PRINTED_CAP, SLOPE, PaperModel, fit_paper, parallel_fraction, speedup
from lowprec.perfmodel.points import Point, Score, alternate, score
from lowprec.perfmodel.roofline import Costs, RooflineModel, Shape, Terms, fit_roofline
from lowprec.perfmodel.roofs import Roofs

__all__ = [
    "CAP",
    "PRINTED_CAP",
    "SLOPE",
    "Calibration",
    "Costs",
    "PaperModel",
    "Point",
    "RooflineModel",
    "Roofs",
    "Score",
    "Shape",
    "Terms",
    "alternate",
    "fit_paper",
    "fit_roofline",
    "load",
    "parallel_fraction",
    "score",
    "speedup",
]
