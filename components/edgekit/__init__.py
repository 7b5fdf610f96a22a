"""Pure logic of the edge: protocols, policy, processing and small models, without any I/O."""
