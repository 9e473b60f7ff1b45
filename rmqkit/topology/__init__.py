"""A file turned into a Topology, and all that can be said of it with no broker."""
