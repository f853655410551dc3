"""What the last chapters train: other networks, on other data."""
