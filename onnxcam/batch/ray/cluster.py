"""The cluster: whether there is one, how a job is connected to it, and what room it has."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from onnxcam.batch import local
from onnxcam.batch.settings import Settings
from onnxcam.errors import OptionError
from onnxcam.quiet import silent

_GPU = ("CUDA", "Tensorrt", "NvTensorRTRTX", "ROCM", "MIGraphX")  # providers that take a GPU of Ray's
_STORE = 200 << 20  # bytes of Ray's memory for results on their way, on this machine


def check(address: str | None) -> None:
    """Whether there is Ray, and an address that can be used.

    Raises:
        OptionError: no Ray, or the address of a Ray client.
    """
    if _where(address).startswith("ray://"):
        raise OptionError(
            f"the address {_where(address)!r} is a Ray client's, but the job must be started where its files are seen: "
            "on a machine of the cluster, with the address 'auto' (--ray-address auto); from elsewhere by "
            "'ray job submit'"
        )
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise OptionError(
            f"the runner 'ray' needs Ray Data ({error}): pip install 'onnxcam[ray]', or take the runner 'local'"
        ) from error


def _where(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


@contextmanager
def connected(address: str | None, settings: Settings, workers: int | None) -> Iterator[None]:
    """Ray, quiet; what was started for the job ends with it."""
    import ray

    if ray.is_initialized():
        yield
        return
    where, options = _where(address), dict[str, Any]()
    if where == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        cpus = int(settings.options.get("threads") or 1)
        options = {"num_cpus": (workers or -(-local.cores() // cpus)) * cpus, "include_dashboard": False}
        options["object_store_memory"] = _STORE
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _undisturbed(), silent():
        try:
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise OptionError(
                f"no Ray at {where!r}: {first_line(error).rstrip('.')}. Start one with 'ray start --head', or give no "
                "address"
            ) from error
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        with _hushed():
            yield
    finally:
        ray.shutdown()


@contextmanager
def _hushed() -> Iterator[None]:
    """Ray tells of what dies, and of what it does about it, on standard output, where rows belong. Its own switch, the
    variable RAY_DEDUP_LOGS_SKIP_REGEX, holds for a whole process, and for what others do with Ray in it.
    """
    worker = sys.modules.get("ray._private.worker")
    told = getattr(worker, "print_to_stdstream", None)
    if told is None:  # another version's
        yield
        return
    vars(worker)["print_to_stdstream"] = lambda *given, **options: None
    try:
        yield
    finally:
        vars(worker)["print_to_stdstream"] = told


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ray puts a handler of its own in the place of the caller's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def share(
    settings: Settings, nodes: Sequence[Mapping[str, float]], workers: int | None
) -> tuple[int, float, float | None]:
    """How many actors; the CPUs and the share of a GPU of each."""
    cpus = int(settings.options.get("threads") or 1)
    if any(str(p).startswith(_GPU) for p in settings.options.get("providers") or ()):
        total = sum(int(node.get("GPU", 0)) for node in nodes if node.get("CPU", 0) >= cpus)
        many = workers or total
        together = -(-many // total) if total else 0
        gpus = None if not together else 1.0 if together == 1 else (10_000 // together) / 10_000
        needs = f"a GPU and {cpus} CPUs"
    else:
        total = sum(int(node.get("CPU", 0) // cpus) for node in nodes)
        many, gpus, needs = workers or total, None, f"{cpus} CPUs"
    if not total:
        raise OptionError(f"no machine of the {len(nodes)} of the cluster has {needs} for an actor: add one that does")
    return many, cpus, gpus


def first_line(error: BaseException | None) -> str:
    """What an error of Ray's says, in one line."""
    return next((line for line in str(error or "").splitlines() if line.strip()), "it does not say why")
