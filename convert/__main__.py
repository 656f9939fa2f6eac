"""`python -m convert SRC DST`: the same command as `mlx-oss convert`."""

from mlx_oss.convert.command import main

if __name__ == "__main__":
    raise SystemExit(main())
