"""Partition solvers, one algorithm per file."""
