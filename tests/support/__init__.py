"""Helpers that tests, the integration suite and the demo share."""
