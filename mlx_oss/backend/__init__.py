"""What differs between machines: the device, the host's cores and memory, the products of MLX's CPU backend."""
