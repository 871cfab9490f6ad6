"""Files without a name: the memory that a client shares with a worker, and what its process writes."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import tempfile

from diffuzz.escaping import escaped

# Of the end of a log.
_MOST_READ = 2**16
_MOST_LINES, _LONGEST_LINE = 5, 200
# Memory is reserved in powers of two up to this size, and in steps of it above.
_STEP = 2**26


def _file(sealed: bool) -> int:
    """Descriptor of a file without a name. On Linux it belongs to no folder, so none can be too small for it."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            return os.memfd_create("diffuzz", os.MFD_CLOEXEC | (os.MFD_ALLOW_SEALING if sealed else 0))
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def log_file() -> int:
    """Descriptor of a file that is appended to, so that whoever writes leaves no hole where it has been truncated."""
    import fcntl

    file = _file(sealed=False)
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_APPEND)
    return file


def memory_file() -> int:
    """Descriptor of a file for memory that is shared.

    Where the system can prevent it, nobody can make it smaller, which would kill whoever reads it. It is not written to
    but through memory: who writes to every descriptor there is finds no room after its position.
    """
    import fcntl

    file = _file(sealed=True)
    with contextlib.suppress(OSError):
        os.lseek(file, 2**63 - 1, os.SEEK_SET)
    if hasattr(fcntl, "F_ADD_SEALS"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return file


def reserved(file: int, size: int) -> mmap.mmap:
    """The memory of a file, at least ``size`` bytes, all of which the system has: using it cannot kill this process.

    Raises OSError where there is not so much.
    """
    size = 1 << (size - 1).bit_length() if size <= _STEP else -(-size // _STEP) * _STEP
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            os.ftruncate(file, size)
    else:
        os.ftruncate(file, size)
    return mmap.mmap(file, size)


def last_text(file: int, begin: int) -> str:
    """The end of what was written to a file from the byte ``begin`` on."""
    size = os.fstat(file).st_size
    # It may have been cut since.
    begin = begin if begin <= size else 0
    return os.pread(file, _MOST_READ, max(begin, size - _MOST_READ)).decode(errors="backslashreplace")


def last_lines(file: int, begin: int) -> tuple[str, ...]:
    """The last few lines of that which are not empty, fit to be printed; what faulthandler says is not among them."""
    lines = [line.strip() for line in last_text(file, begin).partition("Fatal Python error")[0].splitlines()]
    return tuple(escaped(line[:_LONGEST_LINE]) for line in [line for line in lines if line][-_MOST_LINES:])
