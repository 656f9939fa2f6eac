"""Converts a gpt-oss checkpoint into an MLX folder; MXFP4 experts are kept bit for bit.

    from mlx_oss.convert import convert
    convert("gpt-oss-20b", "gpt-oss-20b-mlx")

Modules, in the order in which the data passes through them:

    command.py           `mlx-oss convert` and `python -m convert`
    run.py               convert(): runs a conversion from start to end
    options.py           ConvertOptions
    report.py            Progress and Report: what the caller learns during and after a conversion
    source.py            recognises the layout of a checkpoint folder by its content and reads its config
    configs.py           config.json: OpenAI's keys -> Hugging Face's keys -> the config.json of an MLX folder
    metal.py             OpenAI's Metal file: its config, and where its tensors are in the file
    source_tensors.py    finds and checks source tensors by one name in every layout; each is used exactly once
    metal_transforms.py  the same for the Metal file, whose changes to the tensors it undoes
    transforms.py        source bytes -> target bytes, in one pass and in small pieces
    quantized.py         transform that quantises experts to MXFP4
    affine.py            transforms to MLX's affine quantisation and back (needs MLX)
    profiles.py          which modules outside the experts are quantised, and to how many bits
    jobs.py              the plan: every target tensor and the transform that writes it
    shards.py            jobs -> safetensors shards and their index
    thread_pool.py       runs the writing of shards in a few threads
    checksum.py          CRC-32
    staging.py           the hidden folder that is written into: lock, record of finished shards, publication by rename
    manifest.py          conversion.json: checksums of every tensor and file
    verify.py            verify(): compares a folder with its manifest and its source

The source code is in `convert/` of a checkout, to which `mlx_oss/convert` is a symbolic link; import it as
`mlx_oss.convert`. A lossless conversion needs no MLX.
"""

from mlx_oss.convert.options import ConvertOptions
from mlx_oss.convert.report import Progress, Report
from mlx_oss.convert.run import convert
from mlx_oss.convert.verify import verify

__all__ = ["ConvertOptions", "Progress", "Report", "convert", "verify"]
