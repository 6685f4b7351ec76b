"""The `etcd` scheme."""
