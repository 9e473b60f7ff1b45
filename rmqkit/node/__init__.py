"""A private RabbitMQ node or cluster."""
