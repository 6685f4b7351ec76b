"""Tests of grpclb; `tests.support` holds what they share."""
