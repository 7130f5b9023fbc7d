"""What runs only where the host reads a value at no cost."""
