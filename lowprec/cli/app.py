"""The click application: one command a module."""

from __future__ import annotations

import click

import lowprec
from lowprec.cli.cache import cache
from lowprec.cli.compare import compare
from lowprec.cli.experiment import experiment
from lowprec.cli.fpga import fpga
from lowprec.cli.info import info
from lowprec.cli.model import model
from lowprec.cli.quantize import quantize
from lowprec.cli.speedups import speedups
from lowprec.cli.train import train
from lowprec.cli.wrpn import wrpn


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(lowprec.__version__, prog_name="lowprec")
def app() -> None:
    """Linear models trained on low-precision numbers: measure, train, and look at the kernels."""


for command in (cache, compare, experiment, fpga, info, model, quantize, speedups, train, wrpn):
    app.add_command(command)
