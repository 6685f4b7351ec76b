"""`make demo`: plain grpcio behind a ClusterIP and grpclb over a headless Service, side by side."""
