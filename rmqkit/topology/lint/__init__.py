"""Findings about a topology, one module for each group of rules."""
