"""Nouns, states, errors, protocols, clock, money. Imports nothing of ours and does no I/O."""
