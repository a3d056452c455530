"""Tests of popexd.evaluation."""
