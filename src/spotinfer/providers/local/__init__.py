"""This computer as a provider: a machine is a private folder and the agent's process."""
