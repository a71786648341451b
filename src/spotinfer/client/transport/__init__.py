"""Metering in the HTTP transport, and the real ``openai`` clients that are given it."""
