"""Input to messages, and checks of their bodies."""
