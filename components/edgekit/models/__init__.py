"""Models small enough to be evaluated inside the component."""
