"""Tools that the model may call: functions of the app, Python, a browser, and patches to files."""

from mlx_oss.tools.browser import BrowserTool, Web
from mlx_oss.tools.functions import Tool, tool_from
from mlx_oss.tools.patch import patch_tool
from mlx_oss.tools.python import PythonTool
from mlx_oss.tools.sandbox import Limits

__all__ = ["BrowserTool", "Limits", "PythonTool", "Tool", "Web", "patch_tool", "tool_from"]
