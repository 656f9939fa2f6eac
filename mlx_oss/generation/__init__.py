"""From the ids of a prompt to the tokens that follow it. Knows nothing of text, messages or sessions.

engine.py          Engine, Request and Stream: what chats, servers and tests see of all this
scripted.py        ScriptedEngine, which returns scripted answers
local.py           LocalEngine, which runs a model in this process
prompt_cache.py    a KV cache together with the ids that it holds
generate.py        prefill of a prompt, and decoding token by token
options.py         SamplingOptions
sampling.py        the choice of the next token from logits
compute_thread.py  the computing thread, which runs all MLX computations of all engines
"""
