"""The only room that knows pika: bytes, connections, declaring, publishing, consuming."""
