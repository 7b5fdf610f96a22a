"""Chat at the edge, for clients of OpenAI and of Ollama."""
