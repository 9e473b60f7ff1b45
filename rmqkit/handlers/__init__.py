"""What happens to a delivery."""
