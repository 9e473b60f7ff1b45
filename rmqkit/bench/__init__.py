"""Measure a broker: load from processes of its own, latency, loss and order, reports and comparisons."""
