"""Files that are written whole or not at all, also when the process or the machine stops in the middle."""

import errno
import os
import stat
import uuid
from pathlib import Path


def replace_file(path: Path, content: bytes, *, mode: int = 0o666, keep_access: bool = False) -> None:
    """Replace a file: every reader finds the old content or the new one, never a part of it.

    The content goes to a temporary file in the same folder, which is synced to disk and then renamed.

    Args:
        path: The file. A symbolic link is replaced by a file, not followed.
        content: The new content.
        mode: Permissions of the new file, before the umask.
        keep_access: Whether the new file takes the permissions and the owner of the file that it replaces.

    Raises:
        OSError: The file cannot be written. The old file is unchanged, and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        write_synced(temporary, content, mode=mode, like=path if keep_access and path.exists() else None)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_synced(path: Path, content: bytes, *, mode: int = 0o666, like: Path | None = None) -> None:
    """Create a file and return once its content is on disk.

    Args:
        path: The file. It must not exist.
        content: What to write.
        mode: Permissions, before the umask.
        like: A file whose permissions and owner the new file takes, before it holds any content.

    Raises:
        OSError: The file exists or cannot be written. A part of it may be left.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        if like is not None:
            status = like.stat()
            os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Return once the names in a folder are on disk, such as those of new and renamed files.

    Args:
        folder: The folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system, such as SMB, that cannot sync folders
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files that killed writers of a file left behind.

    Args:
        path: The file that they were to replace. Nobody else may be writing it now.
    """
    for temporary in path.parent.iterdir():
        if temporary.name.startswith(f".{path.name}.") and temporary.name.endswith(".part"):
            temporary.unlink(missing_ok=True)
