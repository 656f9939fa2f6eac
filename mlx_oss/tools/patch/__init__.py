"""apply_patch: the model changes the files of one folder, all of a patch or nothing of it.

apply.py           the tool, and what a patch does to the files
hunks.py           the text of a patch, parsed, and its hunks applied to a text
anchored_paths.py  paths below a folder that no symbolic link can lead elsewhere
"""

from mlx_oss.tools.patch.apply import apply_patch, patch_tool

__all__ = ["apply_patch", "patch_tool"]
