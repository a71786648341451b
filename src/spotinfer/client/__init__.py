"""The public face: launch, plan, connect; clients, servers, transport, settings, display."""
