"""What grpclb costs beside plain grpcio: one script per group of figures, run by ``make bench``."""
