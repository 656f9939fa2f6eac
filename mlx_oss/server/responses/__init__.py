"""OpenAI's Responses API, as Codex, the OpenAI SDKs and agents use it. Knows nothing of models and engines.

tools      the tools of a request, and how calls of them are written
items      the items of a request, told to a transcript
servers    the MCP servers of a request
request    reads a request
output     items of a response, and the events that build them
own_calls  items of what the server itself runs
writer     the events of a response, and the response
store      keeps responses that other requests continue
api        the API, and its further paths
"""

from mlx_oss.server.responses.api import Responses
from mlx_oss.server.responses.servers import Servers
from mlx_oss.server.responses.store import Store

__all__ = ["Responses", "Servers", "Store"]
