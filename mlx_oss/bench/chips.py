"""Memory bandwidth of Apple's chips, the bound on decoding speed: a token reads all weights it uses once.

Apple's figures, from the technical specifications of the Macs that carry the chips (support.apple.com/docs). Where a
chip is sold with two bandwidths (M3 Max, M4 Max, M5 Max: by number of GPU cores) the table has the larger.
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
    """GB/s of the chip with exactly this name, as MLX reports it ("Apple M4 Pro"); None if the table lacks it."""
    return BANDWIDTH.get(device)
