"""What `weights=` names enters, a file on this machine leaves.

Enters: a path, an http(s) URL, `hub:owner/name` (Hugging Face hub), or `torchvision:TAG`.
The idea: a download gets its place in the cache only when it has come in full, its checksum fits
(where its name carries one, as `resnet18-f37072fd.pth` does) and it could be read as weights. So
whatever lies in the cache is good, and a failed attempt leaves nothing behind.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from resnets.errors import UserError, unknown

FORMS = "a path, an http(s) URL, hub:owner/name or torchvision:TAG (such as IMAGENET1K_V1)"
TORCHVISION_NETWORKS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in order of preference
CHECKSUM = re.compile(r"-(?!20\d{6}\.)([0-9a-f]{8,64})\.\w+$")  # eight digits 20... are a date
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20

Check = Callable[[Path], object]


def local_file(source: str, *, name: str, check: Check) -> Path:
    """The file that `source` means, downloaded if need be.

    `name` is the network's, for `torchvision:`. `check` reads a file just downloaded from a URL
    and raises UserError if it holds no weights; then the file is not kept.

    Raises:
        UserError: no such file, repository or tag, a failed or damaged download.

    """
    if source.startswith("torchvision:"):
        return download(torchvision_url(name, source.removeprefix("torchvision:")), check=check)
    if source.startswith("hub:"):
        return _from_hub(source.removeprefix("hub:"))
    if source.startswith(("http://", "https://")):
        return download(source, check=check)
    path = Path(source).expanduser()
    if (path / HUB_FILES[0]).is_file():
        return path / HUB_FILES[0]  # a run folder, or a clone of a repository of the hub
    if not path.is_file():
        state = "is a folder without model.safetensors" if path.is_dir() else "is no file here"
        raise UserError(f"weights = {source!r} {state}; allowed: {FORMS}")
    return path


def torchvision_url(name: str, tag: str) -> str:
    """Where torchvision keeps the weights `tag` of the network that it, too, calls `name`."""
    from torchvision.models import get_model_weights

    factory = name.removesuffix("_v1")
    if factory not in TORCHVISION_NETWORKS:
        raise UserError(
            f"torchvision has no weights for {name!r}, only for {', '.join(TORCHVISION_NETWORKS)}"
        )
    tags = get_model_weights(factory).__members__
    if tag not in tags:
        raise unknown(f"torchvision weights for {factory}", tag, tags)
    return str(tags[tag].url)


def cache_folder() -> Path:
    """`weights/` in RESNETS_DATA, else in the user's cache."""
    chosen = os.environ.get("RESNETS_DATA")
    if chosen:
        return Path(chosen).expanduser() / "weights"
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "resnets" / "weights"


def download(url: str, *, check: Check) -> Path:
    """The cached file of `url`; it is downloaded the first time only."""
    try:
        file_name = Path(unquote(urlsplit(url).path)).name or "weights"
        # Two addresses may end alike: model.safetensors is a common name.
        target = cache_folder() / f"{sha256(url.encode()).hexdigest()[:12]}-{file_name}"
        if target.is_file():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            _stream(url, part, file_name=file_name)
            check(part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except UserError:
        raise
    except HTTPError as error:
        error.close()
        raise UserError(f"cannot download {url}: {error.code} {_line(error.reason)}") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"cannot download {url}: {_line(reason)}") from None
    return target


def _stream(url: str, part: Path, *, file_name: str) -> None:
    """The bytes of `url` into `part`, counted and compared with the checksum in the name."""
    request = Request(url, headers={"User-Agent": "resnets"})
    digest, received = sha256(), 0
    with urlopen(request, timeout=TIMEOUT) as response, part.open("xb") as file:
        promised = response.headers.get("Content-Length")
        while chunk := response.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
    if promised is not None and received != int(promised):
        raise UserError(
            f"cannot download {url}: only {received} of {promised} bytes came; try again"
        )
    claimed = CHECKSUM.search(file_name)
    if claimed and not digest.hexdigest().startswith(claimed[1]):
        raise UserError(
            f"{url} is not the file its name promises: SHA-256 {digest.hexdigest()[:12]}... "
            f"where {claimed[1]} is expected; try again or download it by another way"
        )


def _from_hub(repository: str) -> Path:
    """The weights of a repository, kept in the cache that all users of the hub share."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ImportError:
        raise UserError(
            f"weights = 'hub:{repository}' needs the extra hub: pip install 'resnets[hub]'"
        ) from None
    offline: Exception | None = None
    for file_name in HUB_FILES:
        try:
            # Once the hub did not answer, only what an earlier day left in its cache is of use.
            return Path(
                hf_hub_download(repository, file_name, local_files_only=offline is not None)
            )
        except LocalEntryNotFoundError as error:
            offline = offline or error
        except EntryNotFoundError:
            continue
        except RepositoryNotFoundError:
            raise UserError(
                f"the hub has no repository {repository!r}, or keeps it private: check the name, "
                "or log in with `hf auth login`"
            ) from None
        # Whichever library carries its requests (it has changed): no file came, and this is why.
        except Exception as error:
            raise UserError(f"cannot download hub:{repository}: {_line(error)}") from None
    if offline is not None:
        raise UserError(f"cannot download hub:{repository}: {_line(offline.__cause__ or offline)}")
    raise UserError(f"hub:{repository} holds neither {HUB_FILES[0]} nor {HUB_FILES[1]}")


def _line(reason: object) -> str:
    """One line of what may be many, or have no words at all."""
    return " ".join(str(reason).split())[:300] or type(reason).__name__
