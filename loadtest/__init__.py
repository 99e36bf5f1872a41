"""Measuring: a load test against any broker, and benchmarks against peers."""
