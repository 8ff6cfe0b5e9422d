"""Pictures at an address, such as ``s3://bucket/photos``: whatever fsspec opens. Only this module imports it."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import IO, Any

from onnxcam.batch import walk
from onnxcam.errors import ImageError, OptionError, UnknownNameError

_ADDRESS = re.compile(r"(?:[A-Za-z][\w+.-]+::)*[A-Za-z][\w+.-]+://")  # C:\ has one letter


def is_address(text: str) -> bool:
    """Whether a text is an address, not a path: it begins with a scheme of two letters or more, and ``://``."""
    return _ADDRESS.match(text) is not None


class Remote:
    """The folders at an address; paths in it are those of its file system, without scheme and host."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._files, self.root = _opened(address)

    def is_folder(self) -> bool:
        """Whether the address itself is a folder. Raises: ImageError."""
        try:
            return self._address.endswith("/") or bool(self._files.isdir(self.root))
        except Exception as error:
            raise _unread(self._address, error) from error

    def exists(self) -> bool:
        """Whether there is anything at the address. Raises: ImageError."""
        try:
            return bool(self._files.exists(self.root))
        except Exception as error:
            raise _unread(self._address, error) from error

    def listing(self, folder: str) -> Iterator[walk.Item]:
        """What lies in a folder. Raises: OSError."""
        try:
            found = self._files.ls(folder, detail=True)
            self._files.invalidate_cache(folder)  # it keeps every listing otherwise
        except Exception as error:
            raise OSError(_why(error)) from error
        for facts in found:
            path = facts["name"]
            if path.rstrip("/") != folder.rstrip("/"):  # some list the folder itself, too
                yield walk.Item(path.rstrip("/").rpartition("/")[2], path, facts["type"] == "directory", facts)

    def identity(self, folder: str) -> object:
        """Unknown: these have no links."""
        return None

    def stamp(self, item: walk.Item) -> str:
        """What the listing tells."""
        return _stamp(item.facts)

    def address(self, path: str) -> str:
        """The whole address of a path below the root, in the words of the given one."""
        before, link, after = _links(self._address)
        return f"{before}{_joined(link, path.removeprefix(self.root).strip('/'))}{after}"


def beside(address: str, name: str) -> str:
    """The address of a file in the same folder as another."""
    before, link, after = _links(address)
    return f"{before}{_joined(link.rpartition('/')[0], name)}{after}"


def path_of(address: str) -> str:
    """The path that an address names, without the archives and hosts that it lies in; for its suffix."""
    return _links(address)[1]


def pattern(address: str) -> tuple[str, walk.Pattern]:
    """The address of the folder below which names vary, and how. Raises: ImageError."""
    before, link, after = _links(address)
    scheme, _, path = link.partition("://")
    parts = path.split("/")

    def whole(count: int) -> str:
        return f"{before}{scheme}://{'/'.join(parts[:count])}{after}"

    if scheme.lower() in ("http", "https") and "*" not in path:  # there ? and [ are everyday letters
        return address, walk.Pattern()
    first, names = walk.split(parts, lambda count: Remote(whole(count)).exists())
    return whole(first), names


def _links(address: str) -> tuple[str, str, str]:
    """An address taken apart: ``simplecache::``, the link of the chain that holds the path, ``::archive.zip``."""
    links = address.split("::")
    at = next(n for n, link in enumerate(links) if "://" in link)
    return "".join(f"{link}::" for link in links[:at]), links[at], "".join(f"::{link}" for link in links[at + 1 :])


def _joined(folder: str, name: str) -> str:
    return f"{folder}{name}" if folder.endswith("/") or not name else f"{folder}/{name}"


def read(address: str, limit: int | None) -> bytes:
    """The bytes of a file. Raises: ImageError; OptionError: a package is missing."""
    files, path = _opened(address)
    try:
        data = bytes(files.cat_file(path) if limit is None else files.cat_file(path, 0, limit + 1))
    except Exception as error:
        raise _unread(address, error) from error
    if limit is not None and len(data) > limit:
        raise ImageError(f"cannot read {address!r}: more than the limit of {limit:,} bytes")
    return data


def stream(address: str) -> IO[bytes]:
    """A file, opened. Raises: ImageError."""
    files, path = _opened(address)
    try:
        return io.BufferedReader(files.open(path, "rb"))
    except Exception as error:
        raise _unread(address, error) from error


def stamp_of(address: str) -> str:
    """What changes when the file does, as far as its file system tells; ``""`` where it does not."""
    try:
        files, path = _opened(address)
        return _stamp(files.info(path))
    except Exception:
        return ""


_VERSIONS = ("ETag", "etag", "CRC", "mtime", "created")


def _stamp(facts: Any) -> str:
    version = next((facts[key] for key in _VERSIONS if facts.get(key)), None)
    if isinstance(version, datetime):  # some tell the same time in two ways
        version = version.timestamp()
    return "" if version is None and facts.get("size") is None else f"{facts.get('size')}-{version}"


@lru_cache(maxsize=256)
def check(schemes: str) -> None:
    """See to what is needed to open addresses that begin like this.

    Raises:
        OptionError: fsspec, or the package for one of the schemes, is not installed.
        UnknownNameError: there is no such scheme.
    """
    try:
        import fsspec
    except ImportError as error:
        raise OptionError(f"{schemes} is an address: to open it, pip install 'onnxcam[remote]'") from error
    for scheme in re.findall(r"[\w+.-]+(?=:)", schemes):
        try:
            fsspec.get_filesystem_class(scheme)
        except ValueError:
            raise UnknownNameError.of("scheme of an address", scheme, fsspec.available_protocols()) from None
        except ImportError as error:
            missing = getattr(error.__cause__, "name", None)
            step = f": pip install {missing}" if missing else ""
            raise OptionError(f"{scheme}:// needs a package that is not installed ({error}){step}") from error


def schemes_of(address: str) -> str:
    """What `check` takes of an address."""
    before, link, after = _links(address)
    schemes = [link.partition("://")[0], *re.findall(r"::([\w+.-]+)://", after)]
    return before + "::".join(f"{scheme}://" for scheme in schemes)


def _opened(address: str) -> tuple[Any, str]:
    """A file system, and the path in it."""
    check(schemes_of(address))
    from fsspec.core import url_to_fs

    before, link, after = _links(address)
    try:
        if after and not before:
            files = _archive(link.partition("://")[0], after, threading.get_ident())
            return files, str(files._strip_protocol(link))
        files, path = url_to_fs(address)
    except Exception as error:
        raise _unread(address, error) from error
    return files, str(path)


@lru_cache(maxsize=64)
def _archive(scheme: str, after: str, thread: int) -> Any:
    """An archive, opened once and not for every file in it; one for each thread, since they are not to be shared."""
    from fsspec.core import url_to_fs

    return url_to_fs(f"{scheme}://{after}")[0]


def _unread(address: str, error: Exception) -> ImageError:
    return ImageError(f"cannot read {address!r}: {_why(error)}")


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
