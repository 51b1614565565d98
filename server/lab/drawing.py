"""What the lab's pictures share: colours, a font, and texts that are drawn as they are."""

import threading
from typing import Any

from autoresearch_mcp.server.untrusted import clean

# Of Okabe and Ito's colours, told apart with any colour vision
LINE, INK, FAINT = "#0072B2", "#22262B", "#6B7280"
FONT = "DejaVu Sans"  # comes with matplotlib: a picture is the same everywhere
DRAWING = threading.Lock()  # matplotlib's caches of fonts and text layouts are shared by all figures


def write(where: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Write a text onto a figure or axes, never read as mathematics."""
    where.text(x, y, text, fontfamily=FONT, parse_math=False, **style)


def short(text: str, length: int) -> str:
    """Return one line of the font's characters, cut at a word."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont(FONT)).get_charmap()
    line = " ".join("".join(c if c.isspace() or ord(c) in known else "□" for c in clean(text[:1_000])).split())
    if len(line) <= length:
        return line
    head = line[: length - 1]
    return (head.rsplit(" ", 1)[0] if " " in head[length // 2 :] else head).rstrip(" ,.;:") + "…"
