"""Topology and scenario files: read, check, write, convert."""
