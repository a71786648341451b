"""Engines and how to reach them. Knows HTTP and inference servers, not clouds."""
