"""A loopback address for programs that have no client certificate."""
