"""How each kind of checkpoint stores a model, said once. Needs no MLX.

A layout tells where each tensor of the MLX folder's table (`mlx_oss.weights.names`), the canonical tensors, is found in
the files. `placements` and the converter build on that, so neither needs to know a layout.

    stored.py        the terms in which a layout is described
    mlx_folder.py    what this project's converter, mlx-lm and mlx-community write
    hugging_face.py  the releases, and fine-tunes whose experts are not quantised
    openai.py        `original/` of the releases
    metal.py         `metal/model.bin` of the releases
    checkpoint.py    opens a folder: recognises its layout, reads headers and config, finds every tensor
"""
