"""`python -m mlx_oss`: the `mlx-oss` command, for environments where its script is not on the PATH."""

from mlx_oss.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
