"""``lowprec speedups --full``: every figure of the paper that is a speed of its training loop, measured here, beside the paper's.

``plan`` says what is measured, in pieces; ``journal`` keeps each finished piece, so that a run that was stopped goes on where it
was; ``run`` measures; ``show`` makes tables and plots of the rows.
"""

from lowprec.report.catalogue.journal import Journal, identity
from lowprec.report.catalogue.plan import FULL, QUICK, Options
from lowprec.report.catalogue.run import measure
from lowprec.report.catalogue.show import figures, tables

__all__ = ["FULL", "QUICK", "Journal", "Options", "figures", "identity", "measure", "tables"]
