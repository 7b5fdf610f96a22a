"""Fixtures that run Spin components inside a test session."""
