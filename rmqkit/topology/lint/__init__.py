"""Find suspicious declarations in a topology: a module for each group of checks, `rules.yaml` for the texts of all."""
