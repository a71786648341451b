"""Money and history: the append-only ledger, the launch secrets beside it, and the meter that reads it.

Nothing is imported here: the transport needs only :mod:`.tags`, which must stay cheap.
"""
