"""Handlers of deliveries, one per module; `runner` runs them."""
