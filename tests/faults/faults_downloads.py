"""Weights from servers that are slow, endless, broken or hostile; addresses with secrets."""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import safetensors.torch
from fault_harness import TINY_RUN, Fault, photos, slow

from resnets.models import download
from resnets.models.registry import create_model

Answer = Callable[[str], Iterator[bytes]]
SECRET = "SECRET"
# The output has no such text, and this one.
HIDDEN = rf"(?s)\A(?!.*{SECRET}).*"


def weights() -> bytes:
    return bytes(safetensors.torch.save(create_model("resnet20").state_dict()))


def http(
    body: bytes = b"", status: str = "200 OK", *, length: object = None, **headers: str
) -> bytes:
    """Return an answer with its length, unless that is given or empty."""
    length = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {length}"] if length != "" else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def serve(answer: Answer) -> str:
    """Answer every request in a thread; return the address, as 127.0.0.1:8080."""
    server = socket.create_server(("127.0.0.1", 0))

    def reply(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = b""
            # A greeting of TLS has no empty line.
            while not (b"\r\n\r\n" in request or request[:1] == b"\x16") and (
                piece := connection.recv(65536)
            ):
                request += piece
            for part in answer(request.decode("latin-1")):
                connection.sendall(part)

    def accept() -> None:
        while True:
            Thread(target=reply, args=(server.accept()[0],), daemon=True).start()

    Thread(target=accept, daemon=True).start()
    os.environ |= {"RESNETS_DATA": str(Path("cache").absolute()), "NO_PROXY": "127.0.0.1"}
    return f"127.0.0.1:{server.getsockname()[1]}"


def whole(content: bytes | Callable[[], bytes]) -> Answer:
    """Return a server that always says the same."""
    return lambda request: iter([content if isinstance(content, bytes) else content()])


def slowly(content: Callable[[], bytes], *, at_once: int) -> Answer:
    """Return a server that sends the first bytes at once, and then one in a tenth of a second."""

    def answer(request: str) -> Iterator[bytes]:
        everything = content()
        yield everything[:at_once]
        for place in range(at_once, len(everything)):
            time.sleep(0.1)
            yield everything[place : place + 1]

    return answer


def endless(request: str) -> Iterator[bytes]:
    yield http(length="")
    while True:
        yield bytes(2**16)


def case(
    name: str,
    answer: Answer,
    message: str,
    *,
    address: str = "http://{host}/a.safetensors",
    limits: Mapping[str, float] | None = None,
    environment: Mapping[str, str] | None = None,
    times: int = 1,
    edit: Callable[[Path], object] = lambda folder: None,
    **options: Any,
) -> Fault:
    """Return a case that loads weights from `address` on a server with this `answer`.

    Args:
        name: As the part of `Fault`'s after the kind.
        message: As that of `Fault`.
        **options: As those of `Fault`.
        answer: What the server says.
        address: The source of the weights.
        limits: Other values for constants of `resnets.models.download`.
        environment: Variables to set.
        times: How often the weights are loaded.
        edit: Called before the last time.
    """

    def make(folder: Path) -> Callable[[], object]:
        host = serve(answer)
        for constant, value in (limits or {}).items():
            setattr(download, constant, value)
        for variable, text in (environment or {}).items():
            os.environ[variable] = text.format(host=host)
        source = address.format(host=host)
        for _ in range(times - 1):
            create_model("resnet20", weights=source)
        edit(folder)
        return lambda: create_model("resnet20", weights=source)

    def nothing_left(folder: Path) -> None:
        if options.get("code", 2) and times == 1:
            assert not [path.name for path in folder.glob("cache/weights/*") if path.is_file()]

    limited = {"cpu_seconds": 2.0, "megabytes": 200, "wall_seconds": 30.0, "check": nothing_left}
    return Fault(f"downloads/{name}", make, message, **limited | options)


def redirect(target: str) -> Answer:
    """Return a server that sends everyone elsewhere, and answers 404 there."""

    def answer(request: str) -> Iterator[bytes]:
        elsewhere = request.startswith("GET /elsewhere")
        yield http(status="404 Gone") if elsewhere else http(status="302 Found", Location=target)

    return answer


def authorised(request: str) -> Iterator[bytes]:
    """Answer if the user is `me` and the password `p@ss:/?` (in base 64)."""
    right = "Authorization: Basic bWU6cEBzczovPw==\r\n" in request
    yield http(weights()) if right else http(status="401 Unauthorized")


def forwarded_secret(request: str) -> Iterator[bytes]:
    """Send everyone to another name of this machine, which must not get the password."""
    host = request.partition("Host: ")[2].partition("\r\n")[0]
    if request.startswith("GET /elsewhere"):
        yield http(status="403 It came along" if "Authorization" in request else "404 Gone")
    else:
        port = host.partition(":")[2]
        yield http(status="302 Found", Location=f"http://localhost:{port}/elsewhere")


def _flip_cached(folder: Path) -> None:
    (path,) = (folder / "cache/weights").iterdir()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def _leave_parts(folder: Path) -> None:
    place = folder / "cache/weights"
    place.mkdir(parents=True)
    for name, age in (("old", 100_000), ("new", 1)):
        (place / f".{name}.part").write_bytes(b"x")
        os.utime(place / f".{name}.part", (time.time() - age,) * 2)


def _only_the_new_part(folder: Path) -> None:
    assert [path.name for path in folder.glob("cache/weights/.*")] == [".new.part"]


def _occupy_cache(folder: Path) -> None:
    (folder / "cache").write_bytes(b"")


def _fill_disk(folder: Path) -> None:
    usage = shutil.disk_usage(folder)
    download.shutil.disk_usage = lambda path: usage._replace(free=2**28 + 1000)  # type: ignore[attr-defined]


def _train(source: str, *words: str) -> Callable[[Path], list[str]]:
    """Return a function that trains from weights of an address."""

    def make(folder: Path) -> list[str]:
        host = serve(whole(lambda: http(weights())))
        given = ["--weights", source.format(host=host), "--out", "run", *words]
        return ["train", str(photos(folder / "photos")), *TINY_RUN, *given]

    return make


def _no_secret(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "config.json" for path in files)
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
        assert SECRET not in path.name


QUICK = {"PATIENCE": 1.0}
HUB = {"HF_ENDPOINT": "http://{host}", "HF_HOME": "hub"}
OUT_OF_HUB = {"address": "hub:owner/name", "environment": HUB, "cpu_seconds": 5.0}

FAULTS = [
    # Slow and endless
    case(
        "drip",
        slowly(lambda: http(weights()), at_once=300),
        "only .* bytes came in 1 s",
        limits=QUICK,
    ),
    case(
        "drip-of-headers", slowly(lambda: http(weights()), at_once=20), "only 0 bytes", limits=QUICK
    ),
    case("drip-of-the-status", slowly(http, at_once=0), "only 0 bytes came", limits=QUICK),
    case(
        "no-answer",
        lambda request: iter(lambda: time.sleep(60) or b"", 0),
        "only 0 bytes|timed out",
        limits=QUICK,
    ),
    case(
        "too-long",
        slowly(lambda: http(weights()), at_once=300),
        "more than 0.5 seconds",
        limits={"MAX_SECONDS": 0.5},
    ),
    case("endless", endless, "more than 1,000,000 bytes", limits={"MAX_BYTES": 1_000_000}),
    case("3-gb", whole(http(length=3_000_000_000)), "more than 2,147,483,648 bytes"),
    case(
        "nearly-full-disk",
        whole(http(length=100_000)),
        "1,000 bytes that the disk has to spare",
        edit=_fill_disk,
    ),
    case("endless-on-a-full-disk", endless, "disk has to spare", edit=_fill_disk),
    # Broken
    case("cut", whole(http(bytes(100), length=5000)), "received only 100 of 5000 bytes"),
    case("length-negative", whole(http(length=-5)), "names '-5' as the length"),
    case("length-text", whole(http(length="many")), "names 'many' as the length"),
    case("length-huge", whole(http(length="9" * 4000)), "as the length"),
    case("empty", whole(http()), "is empty"),
    case("no-content", whole(http(status="204 No Content")), "is empty"),
    case("login-page", whole(http(b"<html>Sign in</html>")), "is a web page"),
    case("compressed-page", whole(http(b"\x1f\x8b\x08", Content_Encoding="gzip")), "neither a"),
    case(
        "bad-chunk",
        whole(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        "cannot",
    ),
    case("hangs-up", lambda request: iter(()), "cannot download"),
    case("not-http", whole(b"SSH-2.0-OpenSSH\x1b[31m\r\n"), r"cannot download .*\\x1b\[31m"),
    case("many-headers", whole(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000), "cannot download"),
    case("long-header", whole(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 10**6), "cannot download"),
    case("truncated-weights", whole(lambda: http(weights()[:-99])), "truncated", catalogue="C1"),
    case("plain-where-tls", whole(http()), "cannot download https", address="https://{host}/a.pth"),
    case("unknown-host", whole(http()), "cannot download", address="http://nohost.invalid/a.pth"),
    case("bad-port", whole(http()), "cannot download", address="http://127.0.0.1:99999/a.pth"),
    case("no-port", whole(http()), "cannot download", address="http://127.0.0.1:port/a.pth"),
    case("no-host", whole(http()), "no host", address="http:///a.pth"),
    case("half-an-ipv6-address", whole(http()), "cannot download", address="http://[::1/a.pth"),
    case("occupied-cache", whole(http()), "cannot download .*cache", edit=_occupy_cache),
    # Hostile texts
    case("reason-escape", whole(http(status="500 evil\x1b[31m")), r"500 evil\\x1b\[31m"),
    case("reason-long", whole(http(status="500 " + "x" * 50_000)), r"500 x{290,300}\.\.\."),
    case("reason-none", whole(http(status="500")), "cannot download .*: 500"),
    case(
        "reason-echoes-secret",
        whole(http(status=f"403 bad key {SECRET}")),
        HIDDEN + "403 bad key",
        address="http://{host}/a?key=SECRET",
    ),
    case(
        "body-of-an-error", whole(http(b"\x1b[31mevil", "404 Gone")), r"(?s)\A(?!.*evil).*404 Gone"
    ),
    # Redirections
    case(
        "to-ftp",
        redirect("ftp://127.0.0.1/a"),
        "redirection to url 'ftp://127.0.0.1/a'|ftp.* not followed",
    ),
    case("to-file", redirect("file:///etc/hosts"), "302 "),
    case("to-data", redirect("data:text/plain,x"), "302 "),
    case("in-a-circle", redirect("/a.safetensors"), "302 "),
    case("to-a-signed-address", redirect("/elsewhere?sign=SECRET"), HIDDEN + "404 Gone"),
    case(
        "to-a-signed-ftp-address",
        redirect("ftp://u:SECRET@127.0.0.1/a?sign=SECRET"),
        HIDDEN + "302",
    ),
    case(
        "with-the-password",
        forwarded_secret,
        HIDDEN + "404 Gone",
        address="http://me:SECRET@{host}/a",
        environment={"NO_PROXY": "127.0.0.1,localhost"},
    ),
    # Secrets
    case(
        "query",
        whole(http(status="404 Gone")),
        HIDDEN + r"http://127[\d.:]+/a\.pth: 404 Gone",
        address="http://{host}/a.pth?token=SECRET",
    ),
    case(
        "fragment", whole(http(status="404 Gone")), HIDDEN + "404", address="http://{host}/a#SECRET"
    ),
    case(
        "user",
        whole(http(status="401 No")),
        HIDDEN + "http://127.*401 No",
        address="http://me:SECRET@{host}/a.pth",
    ),
    case(
        "user-odd", whole(http()), HIDDEN + "cannot download", address="http://me:SECRET/x@{host}/a"
    ),
    case(
        "user-odder",
        whole(http()),
        HIDDEN + "cannot download",
        address="http://me:SECRET?x@{host}/a",
    ),
    case(
        "space",
        whole(http(status="404 Gone")),
        HIDDEN + "404",
        address="http://{host}/a?t=SECRET x",
    ),
    case(
        "newline",
        whole(http(status="404 Gone")),
        HIDDEN + "404",
        address="http://{host}/a?t=SECRET\nx",
    ),
    case(
        "not-weights",
        whole(http(b"rubbish")),
        HIDDEN + "neither",
        address="http://{host}/a?t=SECRET",
    ),
    case(
        "ftp",
        whole(http()),
        HIDDEN + "ftp://{host}/a' is not a file".replace("{host}", r"[\d.:]+"),
        address="ftp://me:SECRET@{host}/a?t=SECRET",
    ),
    case("password-works", authorised, "", address="http://me:p%40ss%3A%2F%3F@{host}/a", code=0),
    case("capitals-work", whole(lambda: http(weights())), "", address="HTTP://{host}/a", code=0),
    case(
        "letters-work", whole(lambda: http(weights())), "", address="http://{host}/ü b?q=ä", code=0
    ),
    Fault(
        "downloads/train-query",
        _train("http://{host}/a.pth?token=SECRET", "--quiet"),
        HIDDEN,
        code=0,
        check=_no_secret,
    ),
    Fault(
        "downloads/train-without-model",
        lambda folder: [
            "train",
            str(photos(folder / "photos")),
            "--weights",
            "ftp://u:SECRET@h/a?SECRET",
        ],
        HIDDEN + "ftp://h/a",
    ),
    *[
        Fault(
            f"downloads/{words[0]}-address",
            lambda folder, words=words: [*words],  # type: ignore[misc]
            HIDDEN + "https:/+h/a",
        )
        for words in (
            ("predict", "https://me:SECRET@h/a?t=SECRET", "x.png"),
            ("evaluate", "https://me:SECRET@h/a?t=SECRET", "photos"),
            ("show", "https://me:SECRET@h/a?t=SECRET"),
            ("train", "https://me:SECRET@h/a?t=SECRET"),
        )
    ],
    # Cache and digests
    case(
        "digest-in-the-name",
        whole(lambda: http(weights())),
        "its name says 0123abcd",
        address="http://{host}/a-0123abcd.pth",
        catalogue="C3",
    ),
    case(
        "flipped-in-the-cache",
        whole(lambda: http(weights())),
        "delete it, and http://.* is downloaded",
        times=2,
        edit=_flip_cached,
        catalogue="C3",
    ),
    case(
        "parts-of-the-dead",
        whole(lambda: http(weights())),
        "",
        edit=_leave_parts,
        check=_only_the_new_part,
        code=0,
    ),
    # Hub
    case(
        "hub-token",
        whole(http(status="401 No")),
        HIDDEN + "hub:owner/name",
        address="hub:owner/name",
        environment=HUB | {"HF_TOKEN": "hf_SECRET\nx"},
        cpu_seconds=5.0,
    ),
    case(
        "hub-escape",
        whole(http(status="403 evil\x1b[31m")),
        r"(?s)\A(?!.*\x1b).*hub:owner/name",
        **OUT_OF_HUB,
    ),
    case("hub-page", whole(http(b"<html>Sign in</html>")), "hub:owner/name", **OUT_OF_HUB),
    case(
        "hub-silent",
        slowly(http, at_once=0),
        "only 0 bytes came in 2 seconds",
        limits={"HUB_PATIENCE": 2.0},
        **OUT_OF_HUB,
    ),
    case(
        "hub-traversal",
        whole(http()),
        "hub:",
        address="hub:../../etc",
        environment=HUB,
        cpu_seconds=5.0,
    ),
]

FAULTS = slow(
    FAULTS,
    "downloads/nearly-full-disk",
)
