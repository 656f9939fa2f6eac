"""Weights on disk and on their way into memory: names, files, headers, folders, reading."""
