"""What CUDA alone has: candidates for overrides, none of them in the table before it is measured there."""
