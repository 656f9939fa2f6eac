"""Tools by the Model Context Protocol: servers of others as tools of a session, and our tools as such a server.

server.py      McpServer: a server as a tool of a session
connection.py  one run of a server: the handshake, the list of its tools, calls
stdio.py       a server that is a command: its process and its messages
guard.py       runs that command, and ends all of it when this program is gone
http.py        a server with an address
fate.py        what became of a server, in words
messages.py    which messages of a server are let through
listing.py     what a server says of its tools, made fit to be read by the model
contents.py    what a server answers to a call, as text for the model and attachments for the app
background.py  the thread on which the protocol runs
entries.py     servers as command lines and config files name them
offered.py     our own tools as a server

The official SDK (the package `mcp`) is imported only where a server is started.
"""

from mlx_oss.tools.mcp.server import McpServer

__all__ = ["McpServer"]
