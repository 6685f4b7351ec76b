"""The pure heart of grpclb: values, contracts, state machines without I/O, threads or a clock."""
