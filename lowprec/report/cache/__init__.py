"""`lowprec cache`: the obstinate cache on simulated machines, beside the paper's Figs 6c and 6f, and two real cores.

``plan`` says what is simulated, ``run`` does it and makes the rows, ``hardware`` measures two real cores, ``show`` has tables
and plots.
"""

from lowprec.report.cache.plan import DEFAULT, QUICK, Options, plan
from lowprec.report.cache.run import FIELDS, measure
from lowprec.report.cache.show import figures, tables, trace_table

__all__ = ["DEFAULT", "FIELDS", "QUICK", "Options", "figures", "measure", "plan", "tables", "trace_table"]
