"""From an encoded picture to a tensor, and from scores to named classes."""
