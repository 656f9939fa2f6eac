"""Offload: keeps experts and the embedding on disk, for machines with less memory than the model needs.

Each layer has as many slots for experts as the memory allows. If a token needs an expert that has no slot, it is read
from the weight files of the model's folder. `install` puts such experts into a model. Nothing else in the model
changes, and it computes the same bits as with everything in memory.

    install.py       puts offloaded experts and the embedding into a model that is being loaded
    experts.py       the model's `Experts`, with slots
    expert_cache.py  which expert has which slot, and which one makes room
    embedding.py     an embedding that reads only the rows it needs
    reader.py        reads parts of files into memory, several at a time
"""
