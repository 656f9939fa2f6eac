"""OpenAI's chat completions.

request    what a request asks
response   what was written, as a response or as the chunks of a stream
api        both, as the server and the batches use them
"""

from mlx_oss.server.chat_completions.api import PATH, ChatCompletions

__all__ = ["PATH", "ChatCompletions"]
