"""Where messages come from, and what their bodies are."""
