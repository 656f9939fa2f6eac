"""Ids in, ids out: sampling, prefill and decoding, the prompt cache, and the thread that computes."""
