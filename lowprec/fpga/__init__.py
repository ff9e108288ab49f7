"""Circuits that train: low-precision SGD on FPGAs."""
