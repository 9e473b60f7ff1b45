"""One module for each thing that may happen to a delivery; runner drives them."""
