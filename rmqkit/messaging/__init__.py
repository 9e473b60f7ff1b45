"""Messages in and out over channels: publish, consume, move, request and reply."""
