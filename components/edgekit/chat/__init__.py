"""Chat at the edge: two protocols, one meaning; prompts, limits and streams."""
