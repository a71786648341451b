"""Vast.ai: machines of many hosts, on demand or by a bid that others may exceed."""
