"""Decisions made at the edge, each a pure core over ports."""
