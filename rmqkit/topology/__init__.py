"""Everything that can be said about a topology without a broker."""
