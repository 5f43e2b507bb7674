"""Render Jinja templates into HTML pages that need no other file; format numbers for them.

Every value that a template prints is escaped. A page holds its style, scripts, pictures and, where
it has charts, the chart library (Vega, 0.9 MB).
"""

import base64
import hashlib
import io
import json
import math
import re
import shlex
import unicodedata
import warnings
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from resnets.errors import UserError
from resnets.fileio import cache_dir, sha256, write_atomic

if TYPE_CHECKING:
    import numpy as np

    from resnets.report.charts import Figure

# Characters by which a name could reverse the text around it.
DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# Pixels of the longer side up to which an image keeps every pixel; that of a photo on the page.
SMALL, _PHOTO = 96, 208


def render(template: str, *, package: str = "resnets.report", charts: bool, **values: Any) -> str:
    """Return a page, with the chart library where it has charts.

    The template extends `base.html.j2`; those of `package` see the ones of this package too.
    """
    library = chart_library() if charts else ""
    return _environment(package).get_template(template).render(library=library, **values)


@cache
def _environment(package: str) -> Environment:
    """Return the templates of a package and of this one, compiled once, with their filters."""
    packages = dict.fromkeys((package, "resnets.report"))
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else tidy(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    json_options = {"sort_keys": True, "ensure_ascii": True, "allow_nan": False}
    environment.policies["json.dumps_kwargs"] = json_options
    filters = (csp_hash, finite, percent, shorten, static_picture)
    environment.filters |= {function.__name__: function for function in filters}
    environment.filters |= {"shell": shlex.quote, "python": partial(json.dumps, ensure_ascii=False)}
    environment.filters |= {"address": partial(quote, errors="surrogateescape")}  # any file name
    return environment


def csp_hash(source: str) -> str:
    """Return how a security policy names a script or a style of the page: by its SHA-256."""
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return Markup(f"'sha256-{digest}'")  # base64 has nothing to escape


def static_picture(figure: "Figure") -> str:
    """Return a chart as the address of an image that holds it, for paper and without JavaScript."""
    return picture_address(figure.svg(), bitmap=figure.is_large)  # the page has the title


def picture_address(svg: str, *, bitmap: bool) -> str:
    """Return a drawing as the address of an image, a bitmap where it has thousands of parts."""
    if bitmap:
        import vl_convert

        return data_address("image/png", vl_convert.svg_to_png(svg))
    # Invisible points and the names of marks are for the pointer and the reader of live charts.
    svg = re.sub(r'<path[^>]* opacity="0"[^>]*></path>', "", svg)
    names = re.compile(r' (?:aria-\w+|role)="[^"]*"')
    svg = re.sub(r"<[^>]+>", lambda tag: names.sub("", tag[0]), svg)
    return data_address("image/svg+xml", svg.encode())


def data_address(kind: str, content: bytes) -> str:
    """Return an address that is the content itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def image_address(pixels: "np.ndarray") -> tuple[str, str]:
    """Return pixels H W C as an address that holds the image, and its class of style.

    Small images keep every pixel, as PNG; photos are scaled down, as JPEG.
    """
    height, width, channels = pixels.shape
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    buffer = io.BytesIO()
    if max(height, width) <= SMALL:
        image.save(buffer, "PNG", optimize=True)
        return data_address("image/png", buffer.getvalue()), "pixels"
    image.thumbnail((_PHOTO, _PHOTO), Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return data_address("image/jpeg", buffer.getvalue()), "photo"


def chart_library() -> Markup:
    """Return the chart library. Bundling it takes 1.6 s, so the user's cache keeps the bundle."""
    import vl_convert

    name = f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError, UserError):  # not cached yet, or there is no place for a cache
        head, _, content = cache_dir("charts", name).read_bytes().partition(b"\n")
        if head == _digest_line(content):
            return Markup(content.decode())
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # "</script" inside a string of the library would end the element.
    bundle = bundle.replace("</script", "<\\/script")
    try:
        path, content = cache_dir("charts", name), bundle.encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _digest_line(content) + b"\n" + content)
    except (OSError, UserError) as error:
        warnings.warn(f"the chart library is not cached: {error}", stacklevel=2)
    return Markup(bundle)


def _digest_line(content: bytes) -> bytes:
    return f"// SHA-256 {sha256(content)}".encode()


def tidy(text: str) -> str:
    """Return the text without what file names may hold, and XML, UTF-8 or a reader cannot bear.

    These are control characters, halves of surrogate pairs, and overrides of the direction.
    """
    if text.isprintable():
        return text
    forbidden = ("Cc", "Cs", "Cn")
    return "".join(
        "\ufffd" if unicodedata.category(c) in forbidden or c in DIRECTIONS else c for c in text
    )


def shorten(text: str, length: int) -> str:
    """Return the text, cut off with an ellipsis beyond a length."""
    return text if len(text) <= length else text[: length - 1] + "…"


def finite(value: Any) -> float | None:
    """Return the number, rounded for a page; None where it is absent, NaN or infinite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def percent(value: Any, digits: int = 1) -> str:
    """Return the share in percent, or "undefined"."""
    number = finite(value)
    return "undefined" if number is None else f"{100 * number:.{digits}f}%"
