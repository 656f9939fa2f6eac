"""What of a model fits into how much memory: estimates, the footprint of a folder, and the plan."""
