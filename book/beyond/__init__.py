"""What the last chapters train: other networks, other data, on loops of their own."""
