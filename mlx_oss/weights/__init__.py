"""Weights on disk, and how they get into memory.

names        the tensor names and shapes that a config requires
safetensors  safetensors headers, checked before any weights are read
folder       an MLX folder, checked against its config
files        weight files that stay open
arrays       MLX arrays that are filled in place
reading      stored tensors -> MLX arrays, several reads at a time
mxfp4        the MXFP4 number format, in NumPy
"""
