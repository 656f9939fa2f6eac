"""apply_patch: a tool with which the model changes the files of one folder.

A patch is applied completely or not at all.

apply.py           the tool, and applying a patch to files
transaction.py     changes several files, all or nothing, whatever happens meanwhile
renames.py         renames that never replace a file
parsing.py         parsing the text of a patch
places.py          where hunks fit into the lines of a file
line_index.py      looking for several lines of a text at once
hunks.py           applying hunks to a text
anchored_paths.py  paths of files inside a folder that symbolic links cannot redirect
"""

from mlx_oss.tools.patch.apply import apply_patch, patch_tool

__all__ = ["apply_patch", "patch_tool"]
