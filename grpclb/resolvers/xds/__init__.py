"""xDS without a sidecar: a management server's resources as frozen values, and how they come."""
