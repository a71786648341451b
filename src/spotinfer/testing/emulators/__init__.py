"""Emulated clouds: the HTTP interfaces of real ones, with state, faults and bills, on this computer only."""
