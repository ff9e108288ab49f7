"""Measuring and showing: one home for every command that does either.

``machine`` says what this machine is, ``roofs`` what it can do, ``timing`` times things against each other. ``workload`` and
``sparse_data`` make the paper's data, ``runs`` is what is run on them, ``peer`` what others run; ``paper`` has the published
figures. ``speedups``, ``catalogue`` (``lowprec speedups --full``), ``training`` and ``model`` are the reports, and ``rows``,
``tables``, ``files``, ``plots``, ``model_tables`` and ``model_plots`` show them. ``convolution`` and
``lenet`` are what two of the ``experiments`` run. Compiled are only ``lowprec.report._baseline``, the plain C loops that the
kernels are compared with, ``lowprec.report._roofs``, loops that only move bytes, and ``lowprec.report._conv``, convolutions.
"""
