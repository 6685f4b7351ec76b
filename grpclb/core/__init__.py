"""The pure heart of grpclb: values, contracts and state machines without I/O, threads or a clock."""
