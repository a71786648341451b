"""Decides and acts. Only this layer spends money, and it sees protocols only."""
