"""The `browser` tool: the model searches, opens pages, finds text in them, and cites their lines.

tool.py       the tool, and what a source of pages must provide
folder.py     pages from the files of a folder
passages.py   the search index of a folder, and the passages that it finds
words.py      the words by which a text is found, also in scripts without blanks
web.py        pages from the web
fetching.py   HTTP that ends in time: to an address that was checked, until a deadline or until it is cancelled
addresses.py  which addresses of the internet are public
charsets.py   texts in all encodings, decoded
reader.py     HTML and PDF, made into pages, by a process of its own: reader_process.py
text.py       Markdown and plain text, made into pages
pages.py      pages as the model sees them: numbered lines and links
"""

from mlx_oss.tools.browser.folder import Folder
from mlx_oss.tools.browser.pages import Link, Page
from mlx_oss.tools.browser.tool import Backend, BrowserTool, View
from mlx_oss.tools.browser.web import Web

__all__ = ["Backend", "BrowserTool", "Folder", "Link", "Page", "View", "Web"]
