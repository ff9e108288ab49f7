"""`lowprec fpga`: circuits beside the paper's Fig 7f.

``plan`` says which designs are made, ``run`` makes them, checks them against training in software, and has the rows, ``show``
has tables and plots.
"""

from lowprec.report.fpga.plan import DEFAULT, QUICK, Options
from lowprec.report.fpga.run import FIELDS, measure, write_verilog
from lowprec.report.fpga.show import figures, tables

__all__ = ["DEFAULT", "FIELDS", "QUICK", "Options", "figures", "measure", "tables", "write_verilog"]
