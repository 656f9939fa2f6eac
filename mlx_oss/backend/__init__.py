"""What differs between machines: GPU or CPU backend, cores, memory, and the operations of MLX's CPU backend.

Knows nothing of the model.

    mlx_library.py    loads MLX, and says what to do if that fails
    device.py         whether a GPU computes, and the dtype and compilation that suit it
    machine.py        the memory limit of a machine, and how much may be wired, as arithmetic
    host_memory.py    this machine, reuse of freed memory, huge pages, memory in use
    process_memory.py the most memory that this process has used
    wired.py          wires weights while a model computes on a Mac
    device_errors.py  what MLX raises when the device fails, as errors of ours
    expert_rows.py    how many pairs of tokens and experts to compute at once
    packed.py         packed weights -> values
    blas.py           loads a fast BLAS for the CPU backend before MLX is loaded
    cores.py          splits work among the cores of the CPU backend
    cpu_linear.py     matrix products of the CPU backend with weights as they are stored
    cpu_attention.py  attention of the CPU backend, tile by tile
"""
