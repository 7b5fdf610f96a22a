"""What edges report about the inferences they answered, kept durably and once."""
