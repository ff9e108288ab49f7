"""Predicting throughput: the paper's Eq. 2 and 3, and a model from bytes and measured roofs; and from one machine to many.

``points`` is what both are fitted to and scored on; ``paper`` is Eq. 2 and 3; ``roofs`` is what a machine can do, ``roofline``
the model made of it; ``calibration`` holds both models of one machine and goes to and from JSON. ``communication`` is the model
of many machines that exchange coded changes. Nothing here measures anything, ``lowprec.report.model`` and
``lowprec.report.links`` do. docs/performance-model.md has the formulas in words.
"""

from lowprec.perfmodel.calibration import Calibration, load
from lowprec.perfmodel.communication import Coding, CommunicationModel, Link, LinkFit, Round, Work, fit_link
from lowprec.perfmodel.paper import CAP, PRINTED_CAP, SLOPE, PaperModel, fit_paper, parallel_fraction, speedup
from lowprec.perfmodel.points import Point, Score, alternate, score
from lowprec.perfmodel.roofline import Costs, RooflineModel, Shape, Terms, fit_roofline
from lowprec.perfmodel.roofs import Roofs

__all__ = [
    "CAP",
    "PRINTED_CAP",
    "SLOPE",
    "Calibration",
    "Coding",
    "CommunicationModel",
    "Costs",
    "Link",
    "LinkFit",
    "PaperModel",
    "Point",
    "RooflineModel",
    "Roofs",
    "Round",
    "Score",
    "Shape",
    "Terms",
    "Work",
    "alternate",
    "fit_link",
    "fit_paper",
    "fit_roofline",
    "load",
    "parallel_fraction",
    "score",
    "speedup",
]
