"""The converter: a released gpt-oss checkpoint becomes an MLX folder, bit for bit.

    from mlx_oss.convert import convert
    convert("gpt-oss-20b", "gpt-oss-20b-mlx")

    options.py    what a caller may choose, and what is told while and after converting
    source.py     recognises a checkpoint by its content and reads its config
    configs.py    the spellings of config.json -> the one of MLX folders
    metal.py      OpenAI's Metal file: where its tensors lie; metal_transforms.py: what it did to them, undone
    profiles.py   which module outside the experts is quantised how
    transforms.py    how the bytes of target tensors come out of source tensors, in one pass and small pieces
    quantized.py  recipes that quantise to MXFP4; affine.py: to MLX's affine format, and back
    source_tensors.py      source tensors by one name whatever the layout, each used exactly once
    plan.py       every target tensor, and the jobs that write them
    shards.py     targets -> safetensors shards and their index
    partial.py    the hidden folder written into: lock, record of finished shards, publication
    crew.py       the threads that do the work; checksum.py: CRC-32
    manifest.py   conversion.json: a checksum for each tensor
    run.py        the conversion from start to end
    verify.py     a folder against its manifest and its source
    command.py    `mlx-oss convert` and `python -m convert`

In a checkout this package is `convert`, installed it is `mlx_oss.convert`. The lossless path needs no MLX.
"""

from mlx_oss.convert.options import ConvertOptions, Progress, Report
from mlx_oss.convert.run import convert
from mlx_oss.convert.verify import verify

__all__ = ["ConvertOptions", "Progress", "Report", "convert", "verify"]
