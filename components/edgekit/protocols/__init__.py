"""Wire formats: Open Inference Protocol, OpenAI, Ollama and problem documents."""
