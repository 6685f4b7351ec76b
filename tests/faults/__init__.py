"""Faults that the channel survives, shown with real backends in processes of their own.

A scenario is blocking code over `harness.Client`, so that one body serves both stacks.
"""
