"""Bytes, channels and one logical connection: the only package that imports pika."""
