"""The quality of page vectors as one HTML page that needs nothing else, with PNGs and a JSON."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provender.plugin.report_page import page, write_page
from provender.producers.linksage.image_files import UnreadableImageError, open_image
from provender.producers.linksage.quality import Quality
from provender.producers.linksage.quality_charts import charts
from provender.producers.linksage.quality_page import BODY, STYLE
from provender.producers.linksage.score_figures import QUANTILES, THRESHOLD
from provender.producers.linksage.top_pins import Card, TopPins

#: Longer side of embedded images, in pixels; twice what is shown on most screens.
_SIDE = 200
#: Characters of a text that are shown.
_TEXT = 260


def write_report(
    folder: Path,
    quality: Quality,
    *,
    title: str,
    about: Mapping[str, str] | None = None,
    pictures: Sequence[TopPins] = (),
    data: Path | None = None,
) -> Path:
    """Write `quality.html`, its charts as PNGs, and last `quality.json`; return the page's path.

    Args:
        folder: where to; files of that name are replaced, each whole.
        title: the page's, such as the view's name.
        about: further facts by name, such as the run's id.
        pictures: pages with their first pins (top_pins.py).
        data: the folder of their image files; None shows no images.
    """
    facts = dict(about or {})
    drawn = charts(quality)
    html = page(
        BODY,
        STYLE,
        title,
        drawn,
        about=facts,
        quality=quality,
        recall={dim: quality.recall[dim] for dim in quality.dims},
        threshold=THRESHOLD,
        quantiles=[f"{share:.0%}" for share in QUANTILES],
        pictures=[_shown(one, data) for one in pictures],
    )
    return write_page(folder, html, drawn, {**quality.to_json(), "about": facts})


def _shown(one: TopPins, data: Path | None) -> dict[str, Any]:
    return {
        "page": _card(one.page, data),
        "own": [_card(card, None) for card in one.own],
        "found": [
            {**_card(pin.card, data), "cosine": pin.cosine, "own": pin.own} for pin in one.found
        ],
        "hits": sum(pin.own for pin in one.found),
    }


def _card(card: Card, data: Path | None) -> dict[str, Any]:
    head, _, rest = card.text.strip().partition("\n")
    return {
        "key": card.key,
        "head": _cut(head, _TEXT // 2),
        "rest": _cut(" ".join(rest.split()), _TEXT),
        "url": _cut(card.url or "", _TEXT // 2),
        "image": _thumbnail(card, data) if data is not None else None,
    }


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    whole_words = text[:most].rpartition(" ")[0] or text[: most - 1]
    return whole_words.rstrip(",;:. ") + "…"


def _thumbnail(card: Card, data: Path) -> str | None:
    """The first image that can be read, as the text of a `data:` address."""
    for name in card.images:
        try:
            image = open_image(data, name, _SIDE)
        except UnreadableImageError:
            continue
        content = io.BytesIO()
        image.save(content, "JPEG", quality=72)
        return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
    return None
