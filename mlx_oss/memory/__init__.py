"""How much of a model fits into a given amount of memory.

estimates.py  arithmetic on a config: KV cache, prefill, the context that a Mac can hold; sizes as text
footprint.py  bytes that the weights of a model take in memory
plan.py       what to keep in memory, the context and the prefill chunk, for a memory limit
macs.py       what the released models do on Macs of each size, as arithmetic
"""
