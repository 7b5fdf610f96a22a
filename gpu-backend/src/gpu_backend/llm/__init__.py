"""Language models: engines that generate text, and the one service that the protocols call."""
