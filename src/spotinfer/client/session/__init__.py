"""The async core behind both faces, in a loop of its own: one ledger, the providers, the servers held."""
