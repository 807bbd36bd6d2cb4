"""What all pages share: templates that escape, images as data URIs, and numbers as readers write them."""

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def data_uri(image: Image.Image, kind: str, **options: object) -> str:
    """An image inside the page; `kind` is PNG or JPEG, `options` are Pillow's.

    >>> data_uri(Image.new("L", (2, 2)), "PNG")[:22]
    'data:image/png;base64,'
    """
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def script_hash(script: str) -> str:
    """The hash under which a page's content security policy allows its script.

    >>> script_hash("")
    '47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
    """
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def frame(size: tuple[int, int], box: tuple[float, float, float, float]) -> dict[str, str] | None:
    """What the network saw of an image, as CSS percentages.

    Args:
        size: (width, height) of the image.
        box: (left, top, right, bottom) of what the network saw, in pixels of the image.

    Returns:
        left, top, width and height; None where it saw all of it.

    >>> frame((200, 100), (50, 0, 150, 100))["left"]
    '25.000%'
    """
    width, height = size
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    if (left, top, right, bottom) == (0, 0, width, height):
        return None
    shares = {"left": left / width, "top": top / height}
    shares |= {"width": (right - left) / width, "height": (bottom - top) / height}
    return {side: f"{100 * share:.3f}%" for side, share in shares.items()}


def distinct(names: Iterable[str]) -> list[str]:
    """Names without repetition, in the order in which they first come.

    >>> distinct(["b", "a", "b"])
    ['b', 'a']
    """
    return list(dict.fromkeys(names))


def percent(share: float) -> str:
    """A share in [0, 1] as text; never 0 or 100 % unless it is.

    >>> percent(0.1234), percent(0.99999)
    ('12.3 %', '>99.9 %')
    """
    if 0 < share < 0.001:
        return "<0.1 %"
    return ">99.9 %" if 0.999 < share < 1 else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """A time as text, in milliseconds below a second.

    >>> duration(0.25), duration(3)
    ('250 ms', '3.0 s')
    """
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def render_html(template: str, script: str, style: str, style_values: Mapping[str, object], **values: object) -> str:
    """A page as one HTML document that needs no other file and no network.

    Args:
        template: of the page, below `templates`; it gets `style`, `script` and `script_hash` beside the values.
        script: template of its script.
        style: template of its style sheet.
        style_values: what the style sheet is rendered with.
        values: what the page is rendered with; every text is escaped.
    """
    from markupsafe import Markup

    code = templates().get_template(script).render()
    sheet = Markup(templates().get_template(style).render(**style_values))
    page = templates().get_template(template)
    text = page.render(**values, style=sheet, script=Markup(code), script_hash=script_hash(code))
    return text.encode("utf-8", "replace").decode()  # names of files that are not UTF-8


@cache
def templates() -> "Environment":
    """The templates of this package: every text is escaped, and an unknown name is an error.

    >>> templates().from_string("{{ name }}").render(name="<b>")
    '&lt;b&gt;'
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pellucid.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> "Markup":
    """An escaped name that may break before each capital that follows a small letter."""
    from markupsafe import Markup

    return Markup("<wbr>").join(re.split(r"(?<=[a-z])(?=[A-Z])", name))
