"""HTTP: the protocols spoken, and the one table from error code to status."""
