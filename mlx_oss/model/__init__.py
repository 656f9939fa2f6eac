"""The gpt-oss network: the mathematics that a Mac runs, and nothing else."""
