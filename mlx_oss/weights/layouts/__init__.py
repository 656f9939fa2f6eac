"""Describes how each kind of checkpoint stores a model. Needs no MLX.

A layout says where the files hold each canonical tensor (see `mlx_oss.weights.names`). `placements` and the converter
use only that description.

    description.py   the classes that describe a layout
    mlx_folder.py    what this project's converter, mlx-lm and mlx-community write
    hugging_face.py  the releases, and fine-tunes whose experts are not quantised
    openai.py        `original/` of the releases
    metal.py         `metal/model.bin` of the releases
    releases.py      the sizes of the released models
    checkpoint.py    opens a folder: recognises its layout, reads headers and config, finds every tensor
"""
