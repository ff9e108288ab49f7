"""Circuits: SGD on a linear model as synthesizable hardware. See docs/fpga.md."""
