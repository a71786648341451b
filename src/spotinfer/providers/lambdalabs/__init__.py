"""Lambda Cloud, API 1.10."""
