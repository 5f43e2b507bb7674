"""Provide the file that `weights=` names, downloaded and cached if need be.

A download is kept in the cache only when it is complete, its checksum fits (where the name has one,
as `resnet18-f37072fd.pth`) and it was read as weights; a failed attempt leaves nothing behind. The
name of a cached file has the SHA-256 of its content, which is compared at every use.

A server is not trusted: size, time and rate are limited, redirections stay on HTTP and never leave
HTTPS, and what it says is shown as one escaped line. Passwords and query strings, which may be
keys, are never shown: an address is shown as https://host/path.
"""

import base64
import hashlib
import os
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from resnets.errors import UserError, one_line, public_name, public_text, unknown
from resnets.fileio import cache_dir, expanded, sha256
from resnets.parsing import parse_json

FORMS = (
    "a path, an http(s) URL, hub:owner/name, torchvision:TAG (such as IMAGENET1K_V1), "
    "timm:NAME (such as resnet50.a1_in1k) or a state_dict"
)
TORCHVISION_NETWORKS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
# Tags of torchvision, which need no prefix.
TAG = re.compile(r"DEFAULT|IMAGENET1K_\w+")
HUB_CONFIG = "config.json"
MAX_CONFIG_BYTES = 2**22
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in order of preference
CHECKSUM = re.compile(r"-(?!20\d{6}\.)([0-9a-f]{8,64})\.\w+$")  # eight digits 20... are a date
# The digests in the names of files in the cache, and in that of the hub.
CACHED = re.compile(r"[0-9a-f]{12}-([0-9a-f]{64})-")
BLOB = re.compile(r"([0-9a-f]{64})$")

# Bytes of a download: the largest network's checkpoint, with its optimizer, has 1.5 GB.
MAX_BYTES = 2**31
# Bytes that a download leaves free on the disk.
RESERVED_BYTES = 2**28
MAX_SECONDS = 6 * 3600.0
# A download with fewer bytes a second, over `PATIENCE` seconds, is given up.
MIN_RATE = 10_000
PATIENCE = 30.0
# The hub's library tries again by itself, and writes large pieces at a time.
HUB_PATIENCE = 120.0
# Seconds after which the rest of a killed download is removed.
STALE = 3600.0
CHUNK = 2**18
# Characters of a server's reason that are looked at.
MAX_REASON = 1000

T = TypeVar("T")
Check = Callable[[Path], object]


@dataclass(frozen=True)
class LocalFile:
    """A file of weights, and what is known about it.

    Args:
        path: The file.
        name: Its name where it comes from; the name in a cache is another one.
        config: The content of config.json beside it, in a repository of the hub; else empty.
    """

    path: Path
    name: str
    config: dict[str, Any] = field(default_factory=dict)


def canonical_source(source: object, *, name: str) -> str:
    """Return what `weights=` names as a text with a prefix; `name` is the network's.

    Raises:
        UserError: It is of another kind, or weights that torchvision has for another network.
    """
    if isinstance(source, Enum) and type(source).__module__.startswith("torchvision."):
        factory = name.removesuffix("_v1")
        tag, enum = str(source.name), type(source).__name__
        if torchvision_tags(factory).get(tag) is not source:
            theirs = enum.removesuffix("_Weights").lower()
            row = f": create_model({theirs!r})" if theirs in TORCHVISION_NETWORKS else ""
            raise UserError(f"{enum}.{tag} is not of {name} but of {theirs}{row}")
        return f"torchvision:{tag}"
    if not isinstance(source, str | Path):
        raise UserError(f"weights must be {FORMS}, not a {type(source).__name__}")
    text = str(source)
    return f"torchvision:{text}" if is_tag(source) else text


def is_tag(source: str | Path) -> bool:
    """Return whether a source is a tag of torchvision, such as IMAGENET1K_V2, and no path."""
    text = str(source)
    return isinstance(source, str) and bool(TAG.fullmatch(text)) and not os.path.exists(text)


def torchvision_tags(name: str) -> dict[str, Any]:
    """Return torchvision's weights of a network by their tags, DEFAULT among them."""
    factory = name.removesuffix("_v1")
    if factory not in TORCHVISION_NETWORKS:
        raise UserError(
            f"torchvision has no weights for {name!r}, only for {', '.join(TORCHVISION_NETWORKS)}; "
            f"`resnets models {name} --weights` lists those of timm"
        )
    from torchvision.models import get_model_weights

    return dict(get_model_weights(factory).__members__)


def timm_source(name: str) -> str:
    """Return where timm's weights, such as `resnet50.a1_in1k`, are: its own record, or the hub."""
    if not re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", name):
        raise UserError(
            f"weights = 'timm:{one_line(name)}': timm's weights are called NETWORK.TAG, such as "
            "timm:resnet50.a1_in1k; `resnets models --weights` lists them"
        )
    try:
        import timm
    except ImportError:
        return f"hub:timm/{name}"
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        config = None
    if config is None:
        tags = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        raise unknown("weights of timm", name, tags)
    if config.hf_hub_id and (find_spec("huggingface_hub") or not config.url):
        return f"hub:{config.hf_hub_id}"
    if not config.url:
        raise UserError(f"timm has no weights to download for {name!r}")
    return str(config.url)


def local_file(source: str, *, name: str, check: Check) -> LocalFile:
    """Return the file that a source names, downloaded if need be, or raise UserError.

    `name` is the network's, for `torchvision:`. `check` reads a file downloaded from a URL and
    raises UserError if it has no weights; the file is then not kept.
    """
    if source.startswith("torchvision:"):
        source = torchvision_url(name, source.removeprefix("torchvision:"))
    if source.startswith("timm:"):
        source = timm_source(source.removeprefix("timm:"))
    if source.startswith("hub:"):
        return _from_hub(source.removeprefix("hub:"))
    if is_url(source):
        path = download(source, check=check)
        return LocalFile(path, Path(unquote(urlsplit(source).path)).name)
    path = local_path(source)
    if (path / HUB_FILES[0]).is_file():  # a run folder, or a clone of a repository of the hub
        return LocalFile(path / HUB_FILES[0], HUB_FILES[0], _read_config(path / HUB_CONFIG))
    if not path.is_file():
        state = "is a folder without model.safetensors" if path.is_dir() else "is not a file"
        raise UserError(f"weights = '{one_line(public_name(source))}' {state}; allowed: {FORMS}")
    return LocalFile(path, path.name)


def _read_config(path: Path) -> dict[str, Any]:
    """Return the content of a config.json, or nothing if there is none."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES)
    except OSError:
        return {}
    return parse_json(content, dict[str, Any], name=one_line(path))


def local_path(source: str) -> Path:
    """Return the path that a source names; raise UserError if no file can have it."""
    path = expanded(source)
    try:
        (path / HUB_FILES[0]).exists()
    except (OSError, ValueError) as error:  # too long, or with a NUL
        raise UserError(
            f"weights = '{one_line(public_name(source))}' is not a path ({_reason(error)}); "
            f"allowed: {FORMS}"
        ) from None
    return path


def torchvision_weights(name: str, tag: str) -> Any:
    """Return torchvision's weights `tag` of the network `name`, a member of its enum."""
    tags = torchvision_tags(name)
    if tag not in tags:
        raise unknown(f"torchvision weights for {name.removesuffix('_v1')}", tag, tags)
    return tags[tag]


def torchvision_url(name: str, tag: str) -> str:
    """Return the address of torchvision's weights `tag` of the network `name`."""
    url = str(torchvision_weights(name, tag).url)
    if not CHECKSUM.search(url):
        raise UserError(
            f"{url} has no checksum in its name, so it cannot be verified; download it yourself "
            "and pass the file"
        )
    return url


# Addresses ---------------------------------------------------------------------------------------


def is_url(source: str) -> bool:
    """Return whether a source is an address of HTTP or HTTPS."""
    return source.lower().startswith(("http://", "https://"))


def _reason(error: object, *, hide: Iterable[str] = ()) -> str:
    """Return why something failed, as one line without the texts to hide."""
    cause = getattr(error, "reason", None)  # of a URLError
    error = cause if isinstance(cause, Exception) else error
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    for secret in sorted(filter(None, hide), key=len, reverse=True):
        text = text.replace(secret, "...")
    text = text[:MAX_REASON]
    return one_line(public_text(text))


def _secrets(url: str) -> set[str]:
    """Return the parts of an address, and of the proxies, that no message shows."""
    proxies = [text for name, text in os.environ.items() if name.lower() in PROXIES]
    parts: set[str] = set()
    for address in (url, *proxies):
        credentials = address.rpartition("@")[0].partition("://")[2]
        query = address.partition("?")[2]
        parts |= {credentials, query, *re.split("[:/?@]", credentials)}
        parts |= {pair.partition("=")[2] for pair in query.split("&")}
    spellings = {spelling(part) for part in parts for spelling in (str, quote, unquote)}
    return {part for part in spellings if len(part) > 2}


# Downloads ---------------------------------------------------------------------------------------


def download(url: str, *, check: Check) -> Path:
    """Return the cached file of a URL, downloaded on the first use."""
    folder = cache_dir("weights")
    # Two addresses may end alike: model.safetensors is a common name.
    key = sha256(url.encode(errors="replace"))[:12]
    try:
        return _cached(folder, key, url=url) or _fetch(url, folder, key, check=check)
    except UserError:
        raise
    except HTTPError as error:
        error.close()
        why = f"{error.code} {_reason(error.msg or 'without a reason', hide=_secrets(url))}"
    except (OSError, HTTPException, ValueError) as error:
        why = _reason(error, hide=_secrets(url))
    raise UserError(f"cannot download {public_name(url)}: {why}")


def _cached(folder: Path, key: str, *, url: str) -> Path | None:
    """Return the file in the cache, if it is there; refuse it if it has changed."""
    for path in sorted(folder.glob(f"{key}-*")):
        if CACHED.match(path.name) and path.is_file():
            _verify(path, CACHED, source=public_name(url))
            return path
    return None


def _verify(path: Path, pattern: re.Pattern[str], *, source: str) -> None:
    """Compare a file of a cache with the SHA-256 in its name, if the pattern finds one."""
    named = pattern.match(path.name)
    if named and sha256(path) != named[1]:
        raise UserError(
            f"{path} is damaged: its content does not match the SHA-256 in its name; delete it, "
            f"and {source} is downloaded again"
        )


def _fetch(url: str, folder: Path, key: str, *, check: Check) -> Path:
    """Download a URL into the folder; check its length, the checksum in its name, the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(".*.part"):  # of processes that were killed
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE:
                old.unlink()
    request = _request(url)
    part = folder / f".{key}.{secrets.token_hex(4)}.part"
    try:
        with part.open("xb") as file:
            copy = partial(_copy, request, file)
            digest = _watched(copy, shown=public_name(url), patience=PATIENCE)
            file.flush()
            os.fsync(file.fileno())
        name = Path(unquote(urlsplit(url).path)).name
        checksum = CHECKSUM.search(name)
        if checksum and not digest.startswith(checksum[1]):
            raise UserError(
                f"{public_name(url)} has the SHA-256 {digest[:12]}..., but its name says "
                f"{checksum[1]}; try again or download it in another way"
            )
        check(part)
        tidy = re.sub(r"[^\w.-]", "_", name)[-80:] or "weights"
        return part.replace(folder / f"{key}-{digest}-{tidy}")
    finally:
        part.unlink(missing_ok=True)


def _request(url: str) -> Request:
    """Return the request for a URL; its user and password go into a header, for its host alone."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its text may have a part of a password
        raise UserError(
            f"cannot download {public_name(url)}: its host, port or password is not valid; write "
            "special characters of a password as %XX"
        ) from None
    host = parts.netloc.rpartition("@")[2]
    plain = parts._replace(netloc=host, fragment="").geturl()
    request = Request(quote(plain, safe="!#$%&'()*+,/:;=?@[]~"), headers={"User-Agent": "resnets"})
    if parts.username is not None:
        word = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = f"Basic {base64.b64encode(word).decode()}"
        request.add_unredirected_header("Authorization", authorization)
    return request


class _Redirects(HTTPRedirectHandler):
    """Follow redirections on HTTP, and none from HTTPS to HTTP."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in (("https",) if req.type == "https" else ("http", "https")):
            refusal = f"is a redirection to {public_name(newurl)}, which is not followed"
            raise HTTPError(req.full_url, code, refusal, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass
class Progress:
    """What two threads share of a download: bytes so far, bytes in all, whether to stop."""

    received: int = 0
    total: int = 0
    stopped: bool = False


def _copy(request: Request, file: BinaryIO, progress: Progress) -> str:
    """Copy what a server sends into a file within the limits, and return its SHA-256."""
    # Not torch.hub.download_url_to_file, which has no limits and accepts a body that is too short.
    available = shutil.disk_usage(Path(file.name).parent).free - RESERVED_BYTES
    digest = hashlib.sha256()
    with build_opener(_Redirects).open(request, timeout=PATIENCE) as response:
        length = response.headers.get("Content-Length")
        if length is not None and not re.fullmatch(r"[0-9]{1,18}", length):
            raise ValueError(f"the server names {length[:30]!r} as the length")
        progress.total = int(length or 0)
        _check_size(progress.total, available)
        # read1, since read waits for a whole chunk.
        while not progress.stopped and (content := response.read1(CHUNK)):
            progress.received += len(content)
            _check_size(progress.received, available)
            digest.update(content)
            file.write(content)
    if length is not None and progress.received != progress.total:
        raise ValueError(f"received only {progress.received} of {length} bytes; try again")
    return digest.hexdigest()


def _check_size(size: int, available: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes, the limit of a download")
    if size > available:
        raise ValueError(
            f"it has more than the {max(available, 0):,} bytes that the disk has to spare"
        )


def _watched(
    work: Callable[[Progress], T],
    *,
    shown: str,
    patience: float,
    measure: Callable[[], int] | None = None,
) -> T:
    """Return the result of a download in a thread of its own; give up one that is too slow.

    A timeout of a socket counts from byte to byte: a server that sends a byte now and then, of the
    headers too, would hold it for ever. `measure` counts the bytes where the download does not.
    """
    progress, future = Progress(), Future[T]()

    def run() -> None:
        try:
            future.set_result(work(progress))
        except BaseException as error:
            future.set_exception(error)

    start = marked = time.monotonic()
    before = progress.received = measure() if measure else 0
    threading.Thread(target=run, daemon=True).start()
    try:
        while not wait([future], timeout=0.2).done:
            now = time.monotonic()
            progress.received = measure() if measure else progress.received
            if now - marked > patience:
                came, marked, before = progress.received - before, now, progress.received
                if came < MIN_RATE * patience:
                    raise UserError(
                        f"cannot download {shown}: only {came:,} bytes came in {patience:g} "
                        "seconds; try again"
                    )
            if now - start > MAX_SECONDS:
                raise UserError(
                    f"cannot download {shown}: it takes more than {MAX_SECONDS:g} seconds; try "
                    "again, or download it in another way"
                )
            if now - start > 1 and not measure:  # the hub shows its own
                _show_progress(shown, progress)
        return future.result()
    finally:
        progress.stopped = True
        if time.monotonic() - start > 1 and not measure:
            _show_progress("", None)


def _show_progress(shown: str, progress: Progress | None) -> None:
    """Write over the current line of a terminal; without one, write nothing."""
    if sys.stderr is None or not sys.stderr.isatty():
        return
    text = ""
    if progress is not None:
        total = f" of {progress.total / 1e6:,.1f}" if progress.total else ""
        text = f"{shown}: {progress.received / 1e6:,.1f}{total} MB"
    with suppress(OSError):
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


# Hub ---------------------------------------------------------------------------------------------


def _from_hub(repository: str) -> LocalFile:
    """Return the weights of a repository of the hub, kept in the hub's own cache."""
    path = _hub_file(repository, HUB_FILES)
    if path is None:
        shown = f"hub:{one_line(repository)}"
        raise UserError(f"{shown} has neither {HUB_FILES[0]} nor {HUB_FILES[1]}")
    return LocalFile(path, path.name, hub_config(repository))


def hub_config(repository: str) -> dict[str, Any]:
    """Return the config.json of a repository of the hub; nothing if it has none."""
    path = _hub_file(repository, (HUB_CONFIG,), required=False)
    return {} if path is None else _read_config(path)


def _hub_file(repository: str, names: Iterable[str], *, required: bool = True) -> Path | None:
    """Return the first of these files that a repository has, or None.

    A file that is not `required` is looked for in the hub's cache where the hub does not answer,
    and is absent if that has none.
    """
    shown = f"hub:{one_line(repository)}"
    try:
        from huggingface_hub import constants, errors, get_token, hf_hub_download
    except ImportError:
        raise UserError(
            f"weights = '{shown}' needs the extra hub: pip install 'resnets[hub]'"
        ) from None
    # What the library downloads goes into this folder.
    folder = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "blobs")

    def size() -> int:
        with suppress(OSError), os.scandir(folder) as entries:
            return sum(entry.stat().st_size for entry in entries)
        return 0

    offline: Exception | None = None
    for name in names:

        def fetch(progress: Progress, name: str = name, cached: bool = offline is not None) -> str:
            return str(hf_hub_download(repository, name, local_files_only=cached))

        try:
            # Once the hub did not answer, only its local cache can.
            path = Path(_watched(fetch, shown=shown, patience=HUB_PATIENCE, measure=size))
            _verify(path.resolve(), BLOB, source=shown)
            return path
        except UserError:
            raise
        except errors.LocalEntryNotFoundError as error:
            offline = offline or error
        except errors.EntryNotFoundError:
            continue
        except errors.RepositoryNotFoundError:
            raise UserError(
                f"the hub has no repository {repository!r}, or it is private: check the name, "
                "or log in with `hf auth login`"
            ) from None
        # The hub's HTTP library has changed between versions, so its errors are not named here.
        except Exception as error:
            hide = (get_token() or "").split()
            raise UserError(f"cannot download {shown}: {_reason(error, hide=hide)}") from None
    if offline is not None and required:
        why = _reason(offline.__cause__ or offline, hide=(get_token() or "").split())
        raise UserError(f"cannot download {shown}: {why}")
    return None
