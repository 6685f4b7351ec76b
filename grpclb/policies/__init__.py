"""Load-balancing policies: pure decisions, no I/O, no threads, no clock of their own."""
