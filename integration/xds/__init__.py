"""xDS in real life: C-core's own client beside ours, go-control-plane, Envoy."""
