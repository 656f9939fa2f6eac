"""Anthropic's Messages.

request   what a request asks
blocks    the conversation of a request, block by block
thinking  reasoning in blocks, and how much of it is wanted
response  what was written, as a message or as the events of a stream
api       all of it, with the path that counts tokens
"""

from mlx_oss.server.messages.api import PATH, Messages

__all__ = ["PATH", "Messages"]
