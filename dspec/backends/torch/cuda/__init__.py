"""What CUDA alone has: row work of the overridden operations by Triton kernels."""
