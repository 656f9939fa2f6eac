"""Text generation on token ids: sampling, prefill and decoding.

Knows nothing of text, messages or sessions.

    generate.py        prefill of a prompt, and decoding token by token
    sampling.py        sampling options, and the choice of the next token from logits
    prompt_cache.py    a KV cache together with the ids that it holds
    compute_thread.py  the computing thread, which runs all MLX computations of all sessions
"""
