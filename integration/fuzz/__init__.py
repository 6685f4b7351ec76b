"""Targets for a coverage-guided fuzzer (Atheris)."""
