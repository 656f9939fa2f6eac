"""Memory bandwidth of Apple's chips. It limits the decoding speed, because every token reads all weights it uses once.

The figures are Apple's, from the technical specifications of the Macs with these chips (support.apple.com/docs). Some
chips are sold with two bandwidths, depending on the number of GPU cores (M3 Max, M4 Max, M5 Max); the table contains
the larger one.
"""

from __future__ import annotations

BANDWIDTH = {  # GB/s
    "Apple M1": 68, "Apple M1 Pro": 200, "Apple M1 Max": 400, "Apple M1 Ultra": 800,
    "Apple M2": 100, "Apple M2 Pro": 200, "Apple M2 Max": 400, "Apple M2 Ultra": 800,
    "Apple M3": 100, "Apple M3 Pro": 150, "Apple M3 Max": 400, "Apple M3 Ultra": 819,
    "Apple M4": 120, "Apple M4 Pro": 273, "Apple M4 Max": 546,
    "Apple M5": 153, "Apple M5 Pro": 307, "Apple M5 Max": 614,
}  # fmt: skip


def bandwidth(device: str) -> int | None:
    """GB/s of the chip with exactly this name, as MLX reports it ("Apple M4 Pro"). None if it is not in the table."""
    return BANDWIDTH.get(device)
