"""A Topology as a picture: first what is to be drawn, then how, a module for each language."""
