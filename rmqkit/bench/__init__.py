"""Measure a broker under load: the load and its processes, latency, loss and order, reports and comparisons."""
