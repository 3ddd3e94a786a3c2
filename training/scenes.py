"""Scenes: what a training image shows, its latents, and its captions."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dataset import Latents
from icons import BACKGROUNDS, PLAIN_VARIANTS, Icon, fraction_of
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Random = np.random.Generator

EMPTY_SHARE = 0.1
"""Fraction of the captions that are empty, for classifier-free guidance."""

BACKGROUND_SHARE = 0.3
DEFAULT_BACKGROUND_SHARE = 0.3
"""Fraction of the captions of images on the default background that name it."""

STYLE_SHARES = {"3d": 0.45, "flat": 0.3, "outlined": 0.25}
HELD_OUT_PAIRS = 0.05
"""Fraction of the pairs of concepts that training never shows together."""

NAME_END = "\0"
"""Marks the end of a name in a caption; removed before tokenization."""

FIRST_WORD_SHARE = 0.6
TAG_SHARE = 0.06
COLOUR_SHARE = 0.1
DEFAULT_STYLE = "3d"

PLAIN: tuple[tuple[str, float], ...] = (
    ("{a}", 0.46),
    ("{}", 0.26),
    ("an image of {a}", 0.05),
    ("a photo of {a}", 0.04),
    ("a drawing of {a}", 0.03),
    ("an icon of {a}", 0.03),
    ("{} emoji", 0.03),
    ("{} icon", 0.02),
    ("an illustration of {a}", 0.02),
    ("a cute {}", 0.02),
    ("the {}", 0.01),
    ("one {}", 0.01),
    ("a beautiful {}", 0.01),
    ("a small {}", 0.01),
)
"""Templates of captions and their weights; `{}` is the name, `{a}` the name with its article."""

STYLED: dict[str, tuple[str, ...]] = {
    "3d": ("{s}, 3d", "a 3d {}", "{s}, 3d render", "{s}, 3d style", "{s} in 3d style", "3d {}", "a glossy {}",
           "3d icon of {a}"),
    "flat": ("{s}, flat", "a flat {}", "{s}, flat style", "{s} in flat style", "flat {}", "{s}, flat design",
             "flat icon of {a}", "{s}, flat icon", "a flat illustration of {a}"),
    "outlined": ("{s}, outlined", "an outlined {}", "{s}, outlined style", "{s} in outlined style", "outlined {}",
                 "{s}, line art", "{s}, outline", "outline icon of {a}", "a line drawing of {a}",
                 "{s}, black and white"),
}  # fmt: skip
"""Templates that add a style; `{s}` is a caption without style."""

ON_BACKGROUND = ("{} on a {g} background", "{} on {a_g} background", "{}, {g} background", "{} on {g}")

RELATIONS: dict[tuple[int, int], tuple[str, ...]] = {
    (-1, 0): ("{} next to {}", "{} and {}", "{} beside {}", "{} with {}", "{} left of {}", "{} to the left of {}"),
    (1, 0): ("{} right of {}", "{} to the right of {}"),
    (0, -1): ("{} above {}", "{} on top of {}", "{} over {}"),
    (0, 1): ("{} below {}", "{} under {}"),
}
"""Direction from the second object to the first (right, down), and the templates for it."""
RELATION_SHARES = (0.55, 0.15, 0.15, 0.15)

_HUES = ((14, "red"), (38, "orange"), (68, "yellow"), (165, "green"), (255, "blue"), (295, "purple"), (338, "pink"))
_COLOURS = frozenset({"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey"})
_NO_ARTICLE = frozenset(
    {"bread", "broccoli", "garlic", "bacon", "sushi", "popcorn", "fire", "honey", "milk", "water", "rice", "pasta"}
    | {"spaghetti", "ramen", "beer", "coffee", "chocolate", "cheese", "meat", "corn", "lettuce", "soda", "juice"}
    | {"seaweed", "coral", "ice cream", "red wine", "saturn", "noodles", "rain", "snow", "lightning", "fog", "cash"}
    | {"earth", "planet earth", "table tennis", "ping pong", "milky way"}
)


def with_article(word: str) -> str:
    """Adds the article that English grammar requires, approximately: `a cat`, `an owl`, `grapes`."""
    bare = word.removesuffix(NAME_END)
    if bare in _NO_ARTICLE or (bare.endswith("s") and not bare.endswith(("ss", "us"))):
        return word
    return ("an " if word[0] in "aeio" or word.startswith("umb") else "a ") + word


def dominant_colour(drawing: Image.Image) -> str | None:
    """Name of the colour of at least 60 % of an RGBA drawing's opaque pixels, or None."""
    pixels = np.asarray(drawing.convert("RGBA").resize((32, 32), Image.Resampling.BOX)).reshape(-1, 4)
    names = Counter(colour_name(*pixel[:3]) for pixel in pixels if pixel[3] > 200)
    if not names:
        return None
    name, count = names.most_common(1)[0]
    return name if count >= 0.6 * names.total() else None


def colour_name(red: float, green: float, blue: float) -> str:
    """Name of the colour with these components, 0-255."""
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    if value < 0.22:
        return "black"
    if saturation < 0.14:
        return "white" if value > 0.82 else "grey"
    degrees = hue * 360
    if (degrees < 46 or degrees > 345) and (saturation < 0.55 or (value < 0.72 and saturation < 0.82)):
        return "pink" if value > 0.8 and (degrees < 12 or degrees > 345) else "brown"
    return next((name for limit, name in _HUES if degrees < limit), "red")


def pair_held_out(one: str, other: str) -> bool:
    """Whether training never shows these two concepts together."""
    return fraction_of(" + ".join(sorted((one, other)))) < HELD_OUT_PAIRS


@dataclass(frozen=True)
class Scene:
    """What one image shows.

    Attributes:
        icons: indices of one or two drawings of the same style.
        background: index into `BACKGROUNDS`.
        place: direction from the second object to the first, a key of `RELATIONS`; (0, 0) for a single object.
        tinted: whether the background is one of `TINTS`, which captions do not name; `background` is then the default.
    """

    icons: tuple[int, ...]
    background: int
    place: tuple[int, int]
    tinted: bool = False


def _pick(random: Random, weighted: Sequence[tuple[str, float]]) -> str:
    at = random.random() * sum(weight for _, weight in weighted)
    for text, weight in weighted:
        at -= weight
        if at < 0:
            return text
    return weighted[-1][0]


def _any(random: Random, texts: Sequence[str]) -> str:
    return texts[int(random.integers(len(texts)))]


def _word(random: Random, icon: Icon) -> str:
    word = icon.words[0]
    if len(icon.words) > 1 and random.random() >= FIRST_WORD_SHARE:
        word = _any(random, icon.words[1:])
    if (
        icon.colour
        and random.random() < COLOUR_SHARE
        and not _COLOURS & {part for w in icon.words for part in w.split()}
    ):
        word = f"{icon.colour} {word}"
    return word


def caption_of(random: Random, scene: Scene, icons: Sequence[Icon]) -> str:
    """Returns a random caption of a scene; the name of each object ends with `NAME_END`."""
    shown = [icons[index] for index in scene.icons]
    style = shown[0].style
    words = [_word(random, icon) + NAME_END for icon in shown]
    if len(words) == 2:
        plural = random.random() < 0.75
        objects = [with_article(word) if plural else word for word in words]
        caption = _any(random, RELATIONS[scene.place]).format(*objects)
        word = caption
    else:
        word = words[0]
        caption = _pick(random, PLAIN).format(word, a=with_article(word))
        if shown[0].tags and random.random() < TAG_SHARE:
            caption += f", {_any(random, shown[0].tags)}"
    name = list(BACKGROUNDS)[scene.background]
    template = ""
    if scene.background or (random.random() < DEFAULT_BACKGROUND_SHARE and not scene.tinted):
        template = _any(random, ON_BACKGROUND).format("{}", g=name, a_g=with_article(name))
    styled = style != DEFAULT_STYLE or random.random() < 0.25
    background_first = template and random.random() < 0.3
    if background_first:
        caption = template.format(caption)
    if styled:
        forms = STYLED[style]
        if len(words) == 2 or background_first or random.random() < 0.4:
            forms = tuple(form for form in forms if "{s}" in form)
        caption = _any(random, forms).format(word, s=caption, a=with_article(word) if len(words) == 1 else word)
    if template and not background_first:
        caption = template.format(caption)
    return caption


def every_word(icons: Sequence[Icon]) -> Iterator[str]:
    """Texts that together contain all tokens of all captions."""
    for icon in icons:
        yield from icon.words
        yield from icon.tags
    yield from _COLOURS
    yield from BACKGROUNDS
    for texts in (dict(PLAIN), *STYLED.values(), ON_BACKGROUND, *RELATIONS.values()):
        for text in texts:
            yield text.format("", "", a="a an", s="", g="", a_g="a an")
            yield text.format("", "", a="", s="", g="", a_g="").replace(",", "")


class Scenes:
    """Samples scenes from the training distribution; a fraction `pair_share` of them show two objects."""

    def __init__(self, icons: Sequence[Icon], pair_share: float) -> None:
        self.icons = icons
        self._pair_share = pair_share
        self._by_style: dict[str, tuple[Any, Any]] = {}
        for style in STYLE_SHARES:
            members = [i for i, icon in enumerate(icons) if icon.style == style and not icon.style_held_out]
            weights = np.array([icons[index].weight for index in members])
            self._by_style[style] = np.array(members), np.cumsum(weights / weights.sum())

    def _icon(self, random: Random, style: str) -> int:
        members, bounds = self._by_style[style]
        return int(members[min(int(np.searchsorted(bounds, random.random())), len(members) - 1)])

    def sample(self, random: Random) -> Scene:
        """Samples a scene. `Composer.compose` changes its background if the cached latents do not have it."""
        style = _pick(random, tuple(STYLE_SHARES.items()))
        background = int(random.integers(1, len(BACKGROUNDS))) if random.random() < BACKGROUND_SHARE else 0
        first = self._icon(random, style)
        if random.random() >= self._pair_share:
            return Scene((first,), background, (0, 0))
        while True:
            second = self._icon(random, style)
            labels = self.icons[first].label, self.icons[second].label
            if labels[0] != labels[1] and not pair_held_out(*labels):
                break
        place = list(RELATIONS)[int(random.choice(len(RELATIONS), p=RELATION_SHARES))]
        return Scene((first, second), background, place)


class Composer:
    """Composes the latents of scenes from the cached latents."""

    def __init__(self, latents: Latents, icons: Sequence[Icon]) -> None:
        self._latents = latents
        self._labels = [icon.label for icon in icons]
        self._styles = np.array([icon.style for icon in icons])
        self._allowed = np.array([not icon.style_held_out for icon in icons])
        self._single_backgrounds = latents.backgrounds_of(latents.singles).numpy()
        self._tile_backgrounds = latents.backgrounds_of(latents.tiles).numpy()
        self._on_background = {
            (style, background): np.argwhere(
                (self._tile_backgrounds == background) & (self._styles == style) & self._allowed
            )
            for style in STYLE_SHARES
            for background in range(1, len(BACKGROUNDS))
        }

    def compose(self, random: Random, scene: Scene, plain: bool = False) -> tuple[Tensor, Scene]:
        """Returns latents `(4, edge, edge)`, and the scene that they show.

        The scene may differ from the given one, since each drawing is cached on a few backgrounds only: a single object
        keeps one of its backgrounds, and two objects on a coloured background become two that are cached on it.

        Args:
            plain: whether objects are unchanged and centred in their part of the image, as the text encoder predicts
                them. Otherwise single objects without a named background have a tint, and objects in pairs are
                shifted, on the default background.
        """
        if len(scene.icons) == 1:
            icon = scene.icons[0]
            variant = self._variant(random, self._single_backgrounds[:, icon], scene.background, plain)
            background = int(self._single_backgrounds[variant, icon])
            tinted = variant not in PLAIN_VARIANTS
            return self._latents.singles[variant, icon], Scene(scene.icons, background, scene.place, tinted)
        tiles = []
        style = str(self._styles[scene.icons[0]])
        if plain and scene.background and len(pool := self._on_background[style, scene.background]):
            tiles = [tuple(pool[int(random.integers(len(pool)))]) for _ in range(2)]
        labels = [self._labels[icon] for _, icon in tiles]
        if not tiles or labels[0] == labels[1] or pair_held_out(*labels):
            scene = Scene(scene.icons, 0, scene.place)
            tiles = [(self._variant(random, self._tile_backgrounds[:, icon], 0, plain), icon) for icon in scene.icons]
        composed = Scene((int(tiles[0][1]), int(tiles[1][1])), scene.background, scene.place)
        latents = self._latents.backgrounds[scene.background].clone()
        half = self._latents.tiles.shape[-1]
        for (variant, icon), sign in zip(tiles, (1, -1), strict=True):
            # Along the axis of the relation a tile fills its half; along the other axis it is near the middle.
            middle = half // 2 if plain else int(random.integers(half // 4, half - half // 4 + 1))
            down, across = (half * (axis * sign > 0) if axis else middle for axis in reversed(scene.place))
            latents[:, down : down + half, across : across + half] = self._latents.tiles[variant, icon]
        return latents, composed

    @staticmethod
    def _variant(random: Random, backgrounds: NDArray[np.int64], background: int, plain: bool) -> int:
        """Samples a variant of a drawing, given all its `backgrounds`; a coloured one if `background` is a colour."""
        choices = np.flatnonzero((backgrounds != 0) == (background != 0))
        wanted = choices[np.isin(choices, PLAIN_VARIANTS) == plain]
        return int(random.choice(wanted if len(wanted) else choices))
