"""Processes beside a server of many agents: each answers questions about the lab with an interpreter of its own, so that nobody else waits for it."""
