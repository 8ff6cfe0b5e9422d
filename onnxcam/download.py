"""A file from the network: continued where it broke off, verified, in place whole or not at all."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from onnxcam.errors import ModelError, OutputError, reason
from onnxcam.files import sha256_of

if TYPE_CHECKING:
    import requests

TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes."""
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Wanted:
    """A file to fetch.

    Attributes:
        name: what messages call it.
        url: where it is served; redirects are followed.
        path: where it is kept.
        sha256: 64 lower-case hexadecimal digits.
        bytes: its size.
    """

    name: str
    url: str
    path: Path
    sha256: str
    bytes: int

    @property
    def part(self) -> Path:
        """What an interrupted download leaves, for the next one to continue."""
        return self.path.with_name(f"{self.path.name}.part")

    def is_here(self) -> bool:
        """Whether the file is in place and undamaged."""
        return self.path.is_file() and sha256_of(self.path) == self.sha256


def cache() -> Path:
    """The folder of downloaded models: ``ONNXCAM_CACHE``, or the user's cache folder of this system."""
    import pooch

    return Path(os.environ.get("ONNXCAM_CACHE") or pooch.os_cache("onnxcam")).expanduser()


def amount(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def fetch(wanted: Wanted) -> Path:
    """The verified file: as it lies in the cache, or downloaded.

    What an earlier, interrupted download left is continued with a range request (RFC 9110, section 14.2), from the
    start again where the server does not offer that. Two processes that want the same file wait for each other.

    Raises:
        ModelError: it cannot be had (no network, no such file, broken off, ``ONNXCAM_OFFLINE``), or what came is
            another file; nothing of that is kept.
        OutputError: the cache cannot be written to.
    """
    if wanted.is_here():
        return wanted.path
    if os.environ.get("ONNXCAM_OFFLINE", "").lower() not in ("", "0", "false"):
        raise _offline(wanted)
    try:
        wanted.path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(wanted):
            return wanted.path if wanted.is_here() else _fetched(wanted)
    except OSError as error:
        where = f"the cache {str(wanted.path.parent)!r} cannot be written to: {reason(error)}"
        raise OutputError(f"{wanted.name}: {where}. Set ONNXCAM_CACHE to a folder with room") from error


def _offline(wanted: Wanted) -> ModelError:
    if not wanted.path.is_file():
        return _failed(wanted, "ONNXCAM_OFFLINE is set, and it is not in the cache", "Unset it")
    found = f"SHA-256 {sha256_of(wanted.path)[:12]}..., not {wanted.sha256[:12]}..."
    what = f"ONNXCAM_OFFLINE is set, and the file that lies in the cache is another one, or damaged ({found})"
    return _failed(wanted, what, "Unset it")


def _fetched(wanted: Wanted) -> Path:
    resumed = wanted.part.exists()
    try:
        return _through_pooch(wanted)
    except ValueError as mismatch:
        if resumed:  # what was left from before may have been the fault
            return _fetched(wanted)
        raise ModelError(
            f"{wanted.name}: what {wanted.url} serves is refused: its SHA-256 is not {wanted.sha256[:12]}... "
            "Nothing was kept. Check ONNXCAM_ZOO_URL, or update onnxcam if the file was replaced"
        ) from mismatch


def _through_pooch(wanted: Wanted) -> Path:
    """pooch compares the hash and moves the file into place, or removes it."""
    import pooch

    _stream(wanted)  # before pooch makes its temporary file, which a killed process would leave
    file = wanted.path.name
    shelf = pooch.create(wanted.path.parent, "", registry={file: f"sha256:{wanted.sha256}"}, urls={file: wanted.url})
    log = pooch.get_logger()
    level = log.level
    log.setLevel("WARNING")  # it would print on stderr what the progress bar shows
    try:
        return Path(shelf.fetch(file, downloader=lambda _, output, __: os.replace(wanted.part, output)))
    finally:
        log.setLevel(level)


def _stream(wanted: Wanted) -> None:
    """Bring the part to its full size."""
    import requests

    have = wanted.part.stat().st_size if wanted.part.exists() else 0
    if have == wanted.bytes:
        return
    have = have if have < wanted.bytes else 0
    try:
        with requests.Session() as session, _answer(session, wanted, have) as answer:
            _save(wanted, answer, have if answer.status_code == 206 else 0)
    except (requests.RequestException, ValueError) as error:  # the latter of a name that no host can have
        raise _failed(wanted, *_reason(error, wanted)) from error


def _answer(session: requests.Session, wanted: Wanted, have: int) -> requests.Response:
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    answer = session.get(wanted.url, headers=headers, stream=True, timeout=TIMEOUT)
    continues = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    if have and (answer.status_code == 416 or (answer.status_code == 206 and not continues)):
        answer.close()
        return _answer(session, wanted, 0)
    if not answer.ok:
        what = f"{urlsplit(answer.url).netloc} answers {answer.status_code} {answer.reason}".rstrip()
        step = "Try later" if answer.status_code in (429, 500, 502, 503, 504) else "Check ONNXCAM_ZOO_URL"
        raise _failed(wanted, what, step)
    return answer


def _save(wanted: Wanted, answer: requests.Response, have: int) -> None:
    stated = answer.headers.get("Content-Length", "")
    if stated.isdigit() and int(stated) + have != wanted.bytes:
        what = f"{int(stated) + have} bytes are offered instead of {wanted.bytes}: another file"
        raise _failed(wanted, what, "Check ONNXCAM_ZOO_URL")
    with wanted.part.open("ab" if have else "wb") as out, _progress(wanted, have) as advance:
        for chunk in answer.iter_content(_CHUNK):
            out.write(chunk)
            advance(len(chunk))
            if out.tell() > wanted.bytes:  # no length was stated; the hash will refuse it
                return
    if wanted.part.stat().st_size < wanted.bytes:
        raise _failed(wanted, f"{urlsplit(answer.url).netloc} stopped early", "Check the network, and pull again")


def _failed(wanted: Wanted, why: str, step: str) -> ModelError:
    kept = ""
    if wanted.part.exists() and (size := wanted.part.stat().st_size):
        kept = f"; {amount(size)} of {amount(wanted.bytes)} are kept, the next pull continues there"
    by_hand = f"or put the file at {wanted.path} yourself"
    return ModelError(f"{wanted.name}: cannot download {wanted.url}: {why}{kept}. {step}, {by_hand}")


def _reason(error: Exception, wanted: Wanted) -> tuple[str, str]:
    """What went wrong, and the next step."""
    if isinstance(error, ValueError):
        return "that is no address of the web; ONNXCAM_ZOO_URL begins with http:// or https://", "Correct or unset it"
    address = " and ONNXCAM_ZOO_URL" if os.environ.get("ONNXCAM_ZOO_URL") else ""
    return _fault(error, wanted), f"Check the network{address}, and pull again"


def _fault(error: Exception, wanted: Wanted) -> str:
    from requests import exceptions

    request = getattr(error, "request", None)
    host = urlsplit(str(wanted.url if request is None else request.url)).netloc
    causes = list(_causes(error))
    if isinstance(error, exceptions.ProxyError):
        return f"the proxy in front of {host} does not let it through"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return f"the name {host} is not found: no network, or a wrong address"
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return f"{host} does not answer in time"
    known: list[tuple[type[Exception], str]] = [
        (exceptions.SSLError, f"the certificate of {host} is not trusted"),
        (exceptions.ChunkedEncodingError, f"{host} broke off"),
        (exceptions.ConnectionError, f"no connection to {host}"),
    ]
    return next((text for kind, text in known if isinstance(error, kind)), str(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# ---- one at a time ----


@contextmanager
def _alone(wanted: Wanted) -> Iterator[None]:
    """Hold the file's lock; the system lets go of it when a process dies."""
    lock = wanted.path.with_name(f"{wanted.path.name}.lock")
    while True:
        stream = lock.open("a")
        _wait(stream, wanted)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), lock.stat()):
                break
        stream.close()  # whoever held it has removed it meanwhile
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file: it stays, empty
            lock.unlink()
        stream.close()


def _wait(stream: IO[str], wanted: Wanted) -> None:
    if sys.platform == "win32":
        import msvcrt

        while True:
            with suppress(OSError):
                return msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)
    import fcntl

    with suppress(OSError):  # some network folders have no locks: the hash guards there, at the price of a retry
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"{wanted.name} is being downloaded by another process; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)


# ---- progress ----


@contextmanager
def _progress(wanted: Wanted, have: int) -> Iterator[Callable[[int], None]]:
    """A function that counts bytes: on a bar in a terminal, else silently after one line; both on stderr."""
    if sys.stderr is None or not sys.stderr.isatty():
        _say(f"downloading {wanted.name}, {amount(wanted.bytes - have)}, to {wanted.path.parent}")
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(wanted.name, total=wanted.bytes, completed=have)
        yield lambda count: bar.update(task, advance=count)


def _say(text: str) -> None:
    if sys.stderr is not None:
        print(f"onnxcam: {text}", file=sys.stderr)
