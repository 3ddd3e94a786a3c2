"""What a drawing may be called: the words people type, in the sentences they type them in."""

from __future__ import annotations

import colorsys
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from PIL import Image

TEMPLATES: tuple[tuple[str, float], ...] = (
    ("{a}", 0.36),
    ("{}", 0.24),
    ("a picture of {a}", 0.06),
    ("a photo of {a}", 0.04),
    ("a drawing of {a}", 0.03),
    ("an icon of {a}", 0.04),
    ("{} emoji", 0.04),
    ("{} icon", 0.02),
    ("a 3d {}", 0.02),
    ("{a}, 3d render", 0.02),
    ("{a} on a white background", 0.03),
    ("an illustration of {a}", 0.02),
    ("a cute {}", 0.02),
    ("the {}", 0.02),
    ("one {}", 0.01),
    ("a beautiful {}", 0.01),
    ("a small {}", 0.01),
    ("a big {}", 0.01),
)
"""Sentences and their weights; `{}` is the word, `{a}` the word with its article."""

FIRST_WORD_SHARE = 0.65
TAGS_SHARE = 0.06
COLOUR_SHARE = 0.10

_HUES = ((14, "red"), (38, "orange"), (68, "yellow"), (165, "green"), (255, "blue"), (295, "purple"), (338, "pink"))
_COLOURS = frozenset({"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey"})
_NO_ARTICLE = frozenset(
    {"bread", "broccoli", "garlic", "bacon", "sushi", "popcorn", "fire", "honey", "milk", "water", "rice", "pasta"}
    | {"spaghetti", "ramen", "beer", "coffee", "chocolate", "cheese", "meat", "corn", "lettuce", "soda", "juice"}
    | {"seaweed", "coral", "ice cream", "red wine", "saturn", "noodles"}
)


def with_article(word: str) -> str:
    """`a cat`, `an owl`, `grapes`: the word as English would have it, near enough."""
    if word in _NO_ARTICLE or (word.endswith("s") and not word.endswith(("ss", "us"))):
        return word
    return ("an " if word[0] in "aeio" or word.startswith("umb") else "a ") + word


def dominant_colour(drawing: Image.Image) -> str | None:
    """The colour word of most of an RGBA drawing's opaque pixels; None where no colour has 60 % of them."""
    pixels = np.asarray(drawing.convert("RGBA").resize((32, 32), Image.Resampling.BOX)).reshape(-1, 4)
    names = Counter(_colour_name(*(pixel[:3] / 255.0)) for pixel in pixels if pixel[3] > 200)
    if not names:
        return None
    name, count = names.most_common(1)[0]
    return name if count >= 0.6 * names.total() else None


def _colour_name(red: float, green: float, blue: float) -> str:
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    if value < 0.22:
        return "black"
    if saturation < 0.14:
        return "white" if value > 0.82 else "grey"
    degrees = hue * 360
    if (degrees < 46 or degrees > 345) and (saturation < 0.55 or (value < 0.72 and saturation < 0.82)):
        return "pink" if value > 0.8 and (degrees < 12 or degrees > 345) else "brown"
    return next((name for limit, name in _HUES if degrees < limit), "red")


def captions_of(words: Sequence[str], tags: Sequence[str], colour: str | None) -> tuple[tuple[str, float], ...]:
    """All captions of one drawing with their weights, which sum to 1.

    Args:
        words: plain names, the one used most first.
        tags: further words that go with it, such as emojibase's.
        colour: from `dominant_colour`; left out where a name already holds a colour.
    """
    weights: defaultdict[str, float] = defaultdict(float)
    own = _COLOURS & {part for word in words for part in word.split()}
    coloured = COLOUR_SHARE if colour and not own else 0.0
    tagged = TAGS_SHARE if tags else 0.0
    for index, word in enumerate(words):
        share = 1.0 if len(words) == 1 else FIRST_WORD_SHARE if not index else (1 - FIRST_WORD_SHARE) / (len(words) - 1)
        for template, weight in TEMPLATES:
            text = template.format(word, a=with_article(word))
            weights[text] += share * weight * (1 - coloured - tagged)
        if coloured:
            weights[with_article(f"{colour} {word}")] += share * coloured * 0.7
            weights[f"{colour} {word}"] += share * coloured * 0.3
    for tag in tags:
        weights[f"{words[0]}, {tag}"] += tagged / len(tags)
    total = sum(weights.values())
    return tuple((text, weight / total) for text, weight in weights.items())
