"""MkDocs hook: links to files outside `docs/` work on GitHub; in the site they become plain text."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace `[text](../file)` by `text` where the target is outside `docs/`.

    Args:
        markdown: source of the page.
        page: `mkdocs.structure.pages.Page`.
    """
    outside = "../" * page.file.src_uri.count("/") + "../"
    return re.sub(rf"\[([^\]]+)\]\({re.escape(outside)}[^)]+\)", r"\1", markdown)
