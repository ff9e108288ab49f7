"""Measuring and showing: one home for every command that does either.

``machine`` says what this machine is, ``timing`` times things against each other, ``workload`` makes the
paper's data, ``speedups`` and ``training`` are the two reports, and ``tables``, ``files`` and ``plots`` show
them. Only ``lowprec.report._baseline``, the plain C loops that the kernels are compared with, is compiled.
"""
