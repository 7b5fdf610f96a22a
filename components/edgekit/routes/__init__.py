"""What the edge serves: one module per family of paths."""
