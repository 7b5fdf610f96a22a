"""How policy is applied to one inference: look up, place, call, fall back, keep, record."""
