"""Benchmarks, one file a family; they see a system only through the predictor."""
