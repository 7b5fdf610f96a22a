"""Queues in front of a session: what runs next, together with what, and what is refused."""
