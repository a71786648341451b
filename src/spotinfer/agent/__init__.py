"""The agent: one small program on every rented machine that starts the engine, guards it, and ends the machine.

It is sent to the machine as a zip in an environment variable, so it uses the standard library only, imports nothing
of the rest of spotinfer, and stays within 16 KB of base64. Other people's images decide its Python: 3.8 or later.
"""
