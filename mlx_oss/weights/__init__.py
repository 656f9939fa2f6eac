"""Weights on disk, and how they get into memory.

names.py        the canonical tensors: the names and shapes that a config requires
safetensors.py  safetensors headers, checked before any weights are read
layouts/        where each kind of checkpoint stores the canonical tensors
placements.py   which bytes become which parameter of the model, and how it is held
files.py        weight files that stay open
arrays.py       MLX arrays that are filled in place
reading.py      placements -> MLX arrays, several reads at a time
mxfp4.py        the MXFP4 number format, in NumPy
"""
