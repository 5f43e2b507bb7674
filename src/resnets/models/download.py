"""Provide the file that `weights=` names, downloaded and cached if need be.

A download is kept in the cache only when it is complete, its checksum fits (where the name has one,
as `resnet18-f37072fd.pth`) and it was read as weights; a failed attempt leaves nothing behind.
"""

import re
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from resnets.errors import UserError, unknown
from resnets.fileio import atomic_writer, cache_dir, expanded, sha256

FORMS = "a path, an http(s) URL, hub:owner/name or torchvision:TAG (such as IMAGENET1K_V1)"
TORCHVISION_NETWORKS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in order of preference
CHECKSUM = re.compile(r"-(?!20\d{6}\.)([0-9a-f]{8,64})\.\w+$")  # eight digits 20... are a date
TIMEOUT = 30  # seconds without a byte

Check = Callable[[Path], object]


def local_file(source: str, *, name: str, check: Check) -> Path:
    """Return the file that a source names, downloaded if need be, or raise UserError.

    `name` is the network's, for `torchvision:`. `check` reads a file downloaded from a URL and
    raises UserError if it has no weights; the file is then not kept.
    """
    if source.startswith("torchvision:"):
        return download(torchvision_url(name, source.removeprefix("torchvision:")), check=check)
    if source.startswith("hub:"):
        return _from_hub(source.removeprefix("hub:"))
    if source.startswith(("http://", "https://")):
        return download(source, check=check)
    path = expanded(source)
    if (path / HUB_FILES[0]).is_file():
        return path / HUB_FILES[0]  # a run folder, or a clone of a repository of the hub
    if not path.is_file():
        state = "is a folder without model.safetensors" if path.is_dir() else "is not a file"
        raise UserError(f"weights = {source!r} {state}; allowed: {FORMS}")
    return path


def torchvision_url(name: str, tag: str) -> str:
    """Return the address of torchvision's weights `tag` of the network `name`."""
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


def download(url: str, *, check: Check) -> Path:
    """Return the cached file of a URL, downloaded on the first use."""
    try:
        name = Path(unquote(urlsplit(url).path)).name or "weights"
        # Two addresses may end alike: model.safetensors is a common name.
        target = cache_dir("weights") / f"{sha256(url.encode())[:12]}-{name}"
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_writer(target) as file:
                _stream(url, file, name=name)
                check(Path(file.name))
    except UserError:
        raise
    except HTTPError as error:
        error.close()
        raise UserError(f"cannot download {url}: {error.code} {_line(error.reason)}") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"cannot download {url}: {_line(reason)}") from None
    return target


def _stream(url: str, file: BinaryIO, *, name: str) -> None:
    """Copy a URL into a file; check its length and the checksum in its name."""
    # Not torch.hub.download_url_to_file, which has no timeout and accepts a body that is too short.
    request = Request(url, headers={"User-Agent": "resnets"})
    with urlopen(request, timeout=TIMEOUT) as response:
        expected = response.headers.get("Content-Length")
        copyfileobj(response, file)
    file.flush()
    if expected is not None and file.tell() != int(expected):
        raise UserError(
            f"cannot download {url}: received only {file.tell()} of {expected} bytes; try again"
        )
    digest, checksum = sha256(Path(file.name)), CHECKSUM.search(name)
    if checksum and not digest.startswith(checksum[1]):
        raise UserError(
            f"{url} has the SHA-256 {digest[:12]}..., but its name says {checksum[1]}; "
            "try again or download it in another way"
        )


def _from_hub(repository: str) -> Path:
    """Return the weights of a repository of the hub, kept in the hub's own cache."""
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        raise UserError(
            f"weights = 'hub:{repository}' needs the extra hub: pip install 'resnets[hub]'"
        ) from None
    offline: Exception | None = None
    for name in HUB_FILES:
        try:
            # Once the hub did not answer, only its local cache can.
            return Path(hf_hub_download(repository, name, local_files_only=offline is not None))
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
            raise UserError(f"cannot download hub:{repository}: {_line(error)}") from None
    if offline is not None:
        raise UserError(f"cannot download hub:{repository}: {_line(offline.__cause__ or offline)}")
    raise UserError(f"hub:{repository} has neither {HUB_FILES[0]} nor {HUB_FILES[1]}")


def _line(reason: object) -> str:
    """Return a reason as one line, also where it has several or none."""
    return " ".join(str(reason).split())[:300] or type(reason).__name__
