"""The gpt-oss network: token ids in, logits out.

Knows nothing of files, text or sampling.

    transformer.py  the network, and the key to the dimension letters (B, L, S, ...) of all shapes
    attention.py    grouped-query attention with sinks
    kv_cache.py     keys and values of all layers, and snapshots to rewind to
    linear.py       linear layers with stored bfloat16 or quantised weights, and those of the experts
    rope.py         YaRN rotary frequencies
    fingerprint.py  what tells a model apart from others
    swiglu.py       activation of the experts
"""
