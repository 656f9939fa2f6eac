"""Research that can be followed: a plan, searches, pages, notes, and a report whose citations are checked.

research.py   the steps, and what is done in each
look.py       a round: a fresh session that searches, reads, and writes a note
prompts.py    what the model is told
bounds.py     how much it may take
trace.py      the file of everything that happens
state.py      what has been found so far, made of the trace
pages.py      what has been read of which pages
claims.py     citations, checked against the lines that they cite
facts.py      numbers, quotations and names, found in a text and looked for in another
report.py     the report in Markdown
replaying.py  the same again, from the trace
progress.py   what happens, a line for each step
"""

from mlx_oss.research.bounds import Bounds
from mlx_oss.research.claims import Citation, Claim
from mlx_oss.research.progress import described
from mlx_oss.research.replaying import replay
from mlx_oss.research.report import Report
from mlx_oss.research.research import Research

__all__ = ["Bounds", "Citation", "Claim", "Report", "Research", "described", "replay"]
