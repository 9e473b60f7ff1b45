"""A topology as a picture: Mermaid, DOT or text."""
