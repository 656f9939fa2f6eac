"""The converter: a released gpt-oss checkpoint becomes an MLX folder, bit for bit.

    from mlx_oss.convert import convert
    convert("gpt-oss-20b", "gpt-oss-20b-mlx")

    options.py   what a caller may choose, and what is told while and after converting
    source.py    recognises a checkpoint by its content and reads its config
    configs.py   OpenAI's spelling of config.json -> Hugging Face's
    recipes.py   how the bytes of a target tensor come out of source tensors, in small pieces
    plan.py      every target tensor with its recipe; every source tensor used exactly once
    shards.py    targets -> safetensors shards and their index
    run.py       the conversion: checks, temporary folder, publication

In a checkout this package is `convert`, installed it is `mlx_oss.convert`. The lossless path needs NumPy only.
"""

from .options import ConvertOptions, Progress, Report
from .run import convert

__all__ = ["ConvertOptions", "Progress", "Report", "convert"]
