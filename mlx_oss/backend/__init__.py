"""What differs between machines: GPU or CPU backend, cores, memory, and the operations of MLX's CPU backend.

Knows nothing of the model.

    device.py         whether a GPU computes, and the dtype and compilation that suit it
    host_memory.py    memory limits, wired weights, reuse of freed memory, huge pages
    packed.py         packed weights -> values
    blas.py           loads a fast BLAS for the CPU backend before MLX is loaded
    cores.py          splits work among the cores of the CPU backend
    cpu_linear.py     matrix products of the CPU backend with weights as they are stored
    cpu_attention.py  attention of the CPU backend, tile by tile
"""
