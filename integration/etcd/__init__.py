"""A real etcd, for tests and benchmarks: started, spoken to, and broken."""
