"""A seeded market as a provider: the same control code rents from it in virtual time."""
