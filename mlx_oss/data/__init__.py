"""Bundled files: the o200k_base vocabulary and the nano model."""
