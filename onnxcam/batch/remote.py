"""Pictures at an address, such as ``s3://bucket/photos``: whatever fsspec opens. Only this module imports it."""

from __future__ import annotations

import io
import os
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


def is_here(address: str) -> bool:
    """Whether what an address names, or an archive that it lies in, is a file of this machine."""
    links = address.split("::")
    schemes = {link.partition("://")[0].lower() for link in links}
    return is_address(address) and (bool(schemes & {"file", "local"}) or (len(links) > 1 and "://" not in links[-1]))


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
        """What lies in a folder; of a job's results, that of the job first. Raises: OSError."""
        try:
            found = self._files.ls(folder, detail=True)
            self._files.invalidate_cache(folder)  # it keeps every listing otherwise
        except Exception as error:
            raise OSError(_why(error)) from error
        items = [_item(facts) for facts in (*found, *_unlisted(self._files, folder))]
        items.sort(key=lambda item: item.name != walk.JOB)
        return (item for item in items if item.path.rstrip("/") != folder.rstrip("/"))  # some list the folder itself

    def identity(self, folder: str) -> object:
        """Unknown: these have no links."""
        return None

    def stamp(self, item: walk.Item) -> str:
        """What the listing tells."""
        return _stamp(item.facts)

    def address(self, path: str) -> str:
        """The whole address of a path below the root, in the words of the given one."""
        before, link, after = _links(self._address)
        return f"{before}{_joined(link, _one_link(path.removeprefix(self.root).strip('/')))}{after}"


def _item(facts: Any) -> walk.Item:
    path = facts["name"]
    return walk.Item(path.rstrip("/").rpartition("/")[2], path, facts["type"] == "directory", facts)


def _unlisted(files: Any, folder: str) -> list[dict[str, Any]]:
    """What no folder of an archive lists, since its own folder has no name."""
    known = {} if folder else getattr(files, "dir_cache", None) or {}
    lost = (name for name in known if "//" in f"/{name}" and name.rpartition("/")[0] and "/." not in f"/{name}")
    return [known[name] for name in lost if known[name]["type"] == "file"]


def _one_link(name: str) -> str:
    """A name within an address: "::" would begin another one."""
    return name.replace("::", _TWO_COLONS)


_TWO_COLONS = "%3A%3A"


def beside(address: str, name: str) -> str:
    """The address of a file in the same folder as another."""
    before, link, after = _links(address)
    return f"{before}{_joined(link.rpartition('/')[0], _one_link(name))}{after}"


def path_of(address: str) -> str:
    """The path that an address names, without the archives and hosts that it lies in; for its suffix."""
    return _links(address)[1]


def parts_of(address: str) -> tuple[str, ...]:
    """The names of an address from the outermost to the innermost: an archive is a folder of what lies in it."""
    before, link, after = _links(address)
    scheme, _, path = link.partition("://")
    outer: tuple[str, ...] = ()
    if archive := after.removeprefix("::"):
        outer = parts_of(archive) if is_address(archive) else tuple(os.path.abspath(archive).split(os.sep))
    return (f"{before}{scheme}", *(part for part in (*outer, *path.split("/")) if part))


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
        data = _bytes(files, path, limit)
    except Exception as error:
        raise _unread(address, error) from error
    if limit is not None and len(data) > limit:
        raise ImageError(f"cannot read {address!r}: more than the limit of {limit:,} bytes")
    return data


def _bytes(files: Any, path: str, limit: int | None) -> bytes:
    """At most one more than the limit."""
    if member := _member(files, path):
        with files.zip.open(member) as file:
            return bytes(file.read(-1 if limit is None else limit + 1))
    return bytes(files.cat_file(path) if limit is None else files.cat_file(path, 0, limit + 1))


def stream(address: str) -> IO[bytes]:
    """A file, opened. Raises: ImageError."""
    files, path = _opened(address)
    try:
        member = _member(files, path)
        return io.BufferedReader(files.zip.open(member) if member else files.open(path, "rb"))
    except Exception as error:
        raise _unread(address, error) from error


def stamp_of(address: str) -> str:
    """What changes when the file does, as far as its file system tells; ``""`` where it does not."""
    try:
        files, path = _opened(address)
        member = _member(files, path)
        return _stamp(_facts(member) if member else files.info(path))
    except Exception:
        return ""


def _member(files: Any, path: str) -> Any:
    """A file of a zip, by its exact name, which may begin with "/" or hold "//"; else None."""
    members = getattr(files, "zip", None)
    return None if members is None else members.NameToInfo.get(path)


def _facts(member: Any) -> dict[str, Any]:
    return {"size": member.file_size, "CRC": member.CRC}


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
            files = _archive(link.partition("://")[0], after.removeprefix("::"))
            path = files._strip_protocol(link)
        else:
            files, path = url_to_fs(address)
        return files, _existing(files, str(path))
    except Exception as error:
        raise _unread(address, error) from error


def _existing(files: Any, path: str) -> str:
    """The path as the file system itself spells it: with "::", and in a zip perhaps with a "/" before all."""
    plain = path.replace(_TWO_COLONS, "::")
    if member := next((name for name in (path, plain, f"/{path}", f"/{plain}") if _member(files, name)), None):
        return member
    return plain if plain != path and not files.exists(path) else path


_mine = threading.local()


def forget() -> None:
    """Close this thread's archives, so that they are opened anew."""
    vars(_mine).clear()


def _archive(scheme: str, where: str) -> Any:
    """An archive, opened once and not for every file in it, but anew once it has changed.

    Each thread has its own, as long as it lives, since they are not to be shared. That one of another machine has
    changed is not seen before `forget`.
    """
    from fsspec.core import url_to_fs

    path = re.sub(r"^(file|local)://", "", where)
    version = "" if is_address(path) else walk.disk_stamp(path)
    kept: dict[str, tuple[Any, str]] = vars(_mine)
    address = f"{scheme}://::{where}"
    if kept.get(address, ("", None))[1] != version:
        kept.pop(address, None)  # which closes it
        kept[address] = url_to_fs(address)[0], version
    return kept[address][0]


def _unread(address: str, error: Exception) -> ImageError:
    return ImageError(f"cannot read {address!r}: {_why(error)}")


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
