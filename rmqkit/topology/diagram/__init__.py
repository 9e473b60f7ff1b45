"""Draw a topology as Mermaid, DOT or text."""
