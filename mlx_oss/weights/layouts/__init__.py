"""Describes how each kind of checkpoint stores a model. Needs no MLX.

A layout says where the files hold each canonical tensor (see `mlx_oss.weights.names`). `placements` and the converter
use only that description.

    description.py   the classes that describe a layout
    mlx_folder.py    what this project's converter, mlx-lm and mlx-community write
    hugging_face.py  the releases, and fine-tunes whose experts are not quantised
    openai.py        `original/` of the releases
    metal.py         `metal/model.bin` of the releases
    releases.py      the sizes of the released models
    folders.py       says of a folder that holds no model what it holds, and where the model is
    renaming.py      takes away what programs put before names
    recognition.py   recognises a layout by the names of tensors
    finder.py        finds every tensor, and checks its shape and dtype
    checkpoint.py    opens a folder: all of the above
"""
