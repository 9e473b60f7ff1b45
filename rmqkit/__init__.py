"""A messaging toolkit for RabbitMQ."""

__version__ = "0.1.0"
