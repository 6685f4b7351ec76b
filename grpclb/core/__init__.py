"""The pure heart: values, contracts and state machines without I/O, threads or a clock."""
