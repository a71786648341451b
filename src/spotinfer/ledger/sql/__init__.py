"""The ledger's database: one schema and one set of queries for SQLite and PostgreSQL (SQLAlchemy Core, no ORM)."""
