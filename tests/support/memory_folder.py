"""Where tests keep their files: in memory, if there is room.

A run makes and removes some hundred databases, and on a disk a third of the kernel's work was to make and remove their
files.
"""

import os
import tempfile

FOLDER = "/dev/shm"  # noqa: S108 - pytest makes a folder of its own there
ROOM = 4 * 1024**3


def use() -> None:
    """Has this process and those it starts keep temporary files there, unless TMPDIR names another place."""
    if "TMPDIR" not in os.environ and _is_fit():
        os.environ["TMPDIR"] = FOLDER
        tempfile.tempdir = None


def _is_fit() -> bool:
    """Whether programs can be run from there, and many data folders fit: a container often has 64 MB."""
    try:
        found = os.statvfs(FOLDER)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize > ROOM and not found.f_flag & os.ST_NOEXEC
