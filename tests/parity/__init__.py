"""One scenario, run on plain grpcio and on grpclb, must be seen alike by the caller."""
