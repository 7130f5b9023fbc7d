"""Evaluation: prompt suites, decoding them with an engine, and the reports about it."""
