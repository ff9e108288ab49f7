"""`lowprec wrpn`: the paper's tables counted again, and one network described layer by layer.

``paper`` has the printed numbers, ``run`` the rows, ``show`` tables and plots, ``describing`` a network after the treatment.
"""

from lowprec.report.wrpn.describing import describe, description_tables, list_table
from lowprec.report.wrpn.run import recompute
from lowprec.report.wrpn.show import figures, tables

__all__ = ["describe", "description_tables", "figures", "list_table", "recompute", "tables"]
