"""Converts a gpt-oss checkpoint into an MLX folder; MXFP4 experts are kept bit for bit.

    from mlx_oss.convert import convert
    convert("gpt-oss-20b", "gpt-oss-20b-mlx")

README.md in this folder lists the modules and describes a tensor's way through them.

The source code is in `convert/` of a checkout, to which `mlx_oss/convert` is a symbolic link; import it as
`mlx_oss.convert`. A lossless conversion needs no MLX.
"""

from mlx_oss.convert.options import ConvertOptions
from mlx_oss.convert.report import Progress, Report
from mlx_oss.convert.run import convert
from mlx_oss.convert.verify import verify

__all__ = ["ConvertOptions", "Progress", "Report", "convert", "verify"]
