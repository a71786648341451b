"""How a machine's history becomes money: pure functions over :class:`spotinfer.core.records.History`."""
