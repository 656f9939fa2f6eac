"""Tools that the model may call: functions of the app, Python, a browser, patches to files, servers of tools."""

from mlx_oss.tools.browser import BrowserTool, Web
from mlx_oss.tools.functions import Tool, tool_from
from mlx_oss.tools.mcp import McpServer
from mlx_oss.tools.patch import patch_tool
from mlx_oss.tools.progress import report_progress
from mlx_oss.tools.python import PythonTool
from mlx_oss.tools.results import WithAttachments
from mlx_oss.tools.sandbox import Limits

__all__ = [
    "BrowserTool",
    "Limits",
    "McpServer",
    "PythonTool",
    "Tool",
    "Web",
    "WithAttachments",
    "patch_tool",
    "report_progress",
    "tool_from",
]
