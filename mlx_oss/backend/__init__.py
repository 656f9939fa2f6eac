"""What differs between machines: GPU or CPU backend, memory, and what MLX's CPU backend is slow at.

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
    cores.py          how many cores this process may use
    native/           products and attention of the CPU backend, in C
"""
