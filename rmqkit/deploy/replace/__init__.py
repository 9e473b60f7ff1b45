"""Queues and exchanges whose properties cannot be changed are replaced, messages included."""
