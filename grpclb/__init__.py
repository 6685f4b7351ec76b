"""Client-side load balancing and name resolution for gRPC Python."""
