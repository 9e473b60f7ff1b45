"""Replace queues and exchanges whose properties cannot be changed, and keep their messages."""
