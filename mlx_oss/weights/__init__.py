"""Weights on disk, and how they get into memory.

names.py        the tensor names and shapes that a config requires
safetensors.py  safetensors headers, checked before any weights are read
folder.py       an MLX folder, checked against its config
files.py        weight files that stay open
arrays.py       MLX arrays that are filled in place
reading.py      stored tensors -> MLX arrays, several reads at a time
mxfp4.py        the MXFP4 number format, in NumPy
"""
