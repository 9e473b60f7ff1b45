"""RabbitMQ's HTTP API."""
