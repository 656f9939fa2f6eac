"""The profile for sandbox-exec on macOS, in the profile language of sandbox-exec. Not tested on a Mac."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

_PROFILE = """\
(version 1)
(deny default)
(allow process-exec process-fork)
(allow signal process-info* (target same-sandbox))
(allow sysctl-read)
(allow ipc-posix-sem ipc-posix-shm)
(allow mach-lookup
  (global-name "com.apple.system.logger")
  (global-name "com.apple.system.notification_center")
  (global-name "com.apple.system.opendirectoryd.libinfo"))
(allow file-read*)
(deny file-read-data file-read-xattr (subpath {home}))
(allow file-read* {visible})
(allow file-write* (subpath {work}) (literal "/dev/null") (literal "/dev/zero"))
"""


def profile(work: str, visible: Iterable[str]) -> str:
    """Returns the profile text, with these rules for files.

    Files can be written only below `work`, apart from /dev/null and /dev/zero. In the home folder, only `work` and the
    `visible` folders can be read or listed. Whether another path there exists can still be found out: metadata stays
    readable, so that links to a Python installed in the home folder can be followed.
    """
    folders = " ".join(f"(subpath {json.dumps(os.path.realpath(path))})" for path in [work, *visible])
    home = os.path.realpath(os.path.expanduser("~"))
    return _PROFILE.format(home=json.dumps(home), visible=folders, work=json.dumps(work))
