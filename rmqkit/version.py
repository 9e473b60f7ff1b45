"""The version of rmqkit."""

VERSION = "0.1.0"
