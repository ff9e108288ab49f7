"""lowprec beside its peers on the same data: `measure`, and what `lowprec compare` shows of it."""

from __future__ import annotations

from lowprec.report.compare.data import NAMED, NEEDS_FOLDER
from lowprec.report.compare.race import FIELDS, Options, measure
from lowprec.report.compare.show import figures, tables

__all__ = ["FIELDS", "NAMED", "NEEDS_FOLDER", "Options", "figures", "measure", "tables"]
