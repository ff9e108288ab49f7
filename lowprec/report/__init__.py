"""Measuring and showing: one home for every command that does either.

``machine`` says what this machine is, ``timing`` times things against each other, ``workload`` makes the
paper's data, ``speedups``, ``training`` and ``model`` are the reports, and ``tables``, ``files`` and ``plots`` show
them. Compiled are only ``lowprec.report._baseline``, the plain C loops that the kernels are compared with, and
``lowprec.report._roofs``, loops that only move bytes.
"""
