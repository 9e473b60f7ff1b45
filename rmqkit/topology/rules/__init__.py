"""What lint knows, by theme; `rmqkit.topology.lint` runs it."""
