"""Many devices, one job: a sans-IO scheduler in thin gRPC shells."""
