"""Resolvers: each one coroutine on the control loop that reports whole states."""
