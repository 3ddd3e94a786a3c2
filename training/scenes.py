"""What a training image shows, and what it may be called, in the sentences that people type."""

from __future__ import annotations

import colorsys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dataset import Latents
from icons import GROUNDS, PLAIN_VARIANTS, Icon
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Random = np.random.Generator

NOTHING_SHARE = 0.1
"""Share of the images without any caption, for classifier-free guidance."""

GROUND_SHARE = 0.3
DEFAULT_GROUND_SHARE = 0.3
"""Share of the images on the default ground whose sentences name it."""

STYLE_SHARES = {"3d": 0.45, "flat": 0.3, "outlined": 0.25}
HELD_OUT_COUPLES = 0.05
"""Share of the couples of concepts that never come together in training."""

NAME_END = "\0"
"""Marks in a sentence where a name ends; no tokenizer is to see it."""

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
"""Sentences and their weights; `{}` is the word, `{a}` the word with its article."""

STYLED: dict[str, tuple[str, ...]] = {
    "3d": ("{s}, 3d", "a 3d {}", "{s}, 3d render", "{s}, 3d style", "{s} in 3d style", "3d {}", "a glossy {}",
           "3d icon of {a}"),
    "flat": ("{s}, flat", "a flat {}", "{s}, flat style", "{s} in flat style", "flat {}", "{s}, flat design",
             "flat icon of {a}", "{s}, flat icon", "a flat illustration of {a}"),
    "outlined": ("{s}, outlined", "an outlined {}", "{s}, outlined style", "{s} in outlined style", "outlined {}",
                 "{s}, line art", "{s}, outline", "outline icon of {a}", "a line drawing of {a}",
                 "{s}, black and white"),
}  # fmt: skip
"""How a style is asked for; `{s}` is a plain sentence."""

GROUNDED = ("{} on a {g} background", "{} on {a_g} background", "{}, {g} background", "{} on {g}")

COUPLES: dict[tuple[int, int], tuple[str, ...]] = {
    (-1, 0): ("{} next to {}", "{} and {}", "{} beside {}", "{} with {}", "{} left of {}", "{} to the left of {}"),
    (1, 0): ("{} right of {}", "{} to the right of {}"),
    (0, -1): ("{} above {}", "{} on top of {}", "{} over {}"),
    (0, 1): ("{} below {}", "{} under {}"),
}
"""Where the first of two things is, seen from the second (across, down), and how that is said."""
COUPLE_SHARES = (0.55, 0.15, 0.15, 0.15)

_HUES = ((14, "red"), (38, "orange"), (68, "yellow"), (165, "green"), (255, "blue"), (295, "purple"), (338, "pink"))
_COLOURS = frozenset({"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey"})
_NO_ARTICLE = frozenset(
    {"bread", "broccoli", "garlic", "bacon", "sushi", "popcorn", "fire", "honey", "milk", "water", "rice", "pasta"}
    | {"spaghetti", "ramen", "beer", "coffee", "chocolate", "cheese", "meat", "corn", "lettuce", "soda", "juice"}
    | {"seaweed", "coral", "ice cream", "red wine", "saturn", "noodles", "rain", "snow", "lightning", "fog", "cash"}
    | {"earth", "planet earth", "table tennis", "ping pong", "milky way"}
)


def with_article(word: str) -> str:
    """`a cat`, `an owl`, `grapes`: the word as English would have it, near enough."""
    bare = word.removesuffix(NAME_END)
    if bare in _NO_ARTICLE or (bare.endswith("s") and not bare.endswith(("ss", "us"))):
        return word
    return ("an " if word[0] in "aeio" or word.startswith("umb") else "a ") + word


def dominant_colour(drawing: Image.Image) -> str | None:
    """The colour word of most of an RGBA drawing's opaque pixels; None where no colour has 60 % of them."""
    pixels = np.asarray(drawing.convert("RGBA").resize((32, 32), Image.Resampling.BOX)).reshape(-1, 4)
    names = Counter(colour_name(*pixel[:3]) for pixel in pixels if pixel[3] > 200)
    if not names:
        return None
    name, count = names.most_common(1)[0]
    return name if count >= 0.6 * names.total() else None


def colour_name(red: float, green: float, blue: float) -> str:
    """The plain word for a colour, each part 0-255."""
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    if value < 0.22:
        return "black"
    if saturation < 0.14:
        return "white" if value > 0.82 else "grey"
    degrees = hue * 360
    if (degrees < 46 or degrees > 345) and (saturation < 0.55 or (value < 0.72 and saturation < 0.82)):
        return "pink" if value > 0.8 and (degrees < 12 or degrees > 345) else "brown"
    return next((name for limit, name in _HUES if degrees < limit), "red")


def couple_held_out(one: str, other: str) -> bool:
    """Whether these two concepts never come together in training."""
    return zlib.crc32(" + ".join(sorted((one, other))).encode()) / 2**32 < HELD_OUT_COUPLES


@dataclass(frozen=True)
class Scene:
    """What one image shows.

    Attributes:
        icons: indices of one drawing or two, of one style.
        ground: index into `GROUNDS`.
        place: of the first thing, seen from the second; (0, 0) for one thing alone.
        tinted: whether its ground is one of `TINTS`, which no sentence names; `ground` is the default one then.
    """

    icons: tuple[int, ...]
    ground: int
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


def sentence_of(random: Random, scene: Scene, icons: Sequence[Icon]) -> str:
    """One of the many ways of asking for a scene; each thing's name is followed by `NAME_END`."""
    shown = [icons[index] for index in scene.icons]
    style = shown[0].style
    words = [_word(random, icon) + NAME_END for icon in shown]
    if len(words) == 2:
        plural = random.random() < 0.75
        things = [with_article(word) if plural else word for word in words]
        said = _any(random, COUPLES[scene.place]).format(*things)
        word = said
    else:
        word = words[0]
        said = _pick(random, PLAIN).format(word, a=with_article(word))
        if shown[0].tags and random.random() < TAG_SHARE:
            said += f", {_any(random, shown[0].tags)}"
    ground = list(GROUNDS)[scene.ground]
    background = ""
    if scene.ground or (random.random() < DEFAULT_GROUND_SHARE and not scene.tinted):
        background = _any(random, GROUNDED).format("{}", g=ground, a_g=with_article(ground))
    styled = style != DEFAULT_STYLE or random.random() < 0.25
    ground_first = background and random.random() < 0.3
    if ground_first:
        said = background.format(said)
    if styled:
        forms = STYLED[style]
        if len(words) == 2 or ground_first or random.random() < 0.4:
            forms = tuple(form for form in forms if "{s}" in form)
        said = _any(random, forms).format(word, s=said, a=with_article(word) if len(words) == 1 else word)
    if background and not ground_first:
        said = background.format(said)
    return said


def every_word(icons: Sequence[Icon]) -> Iterator[str]:
    """All that sentences are made of: no sentence has a token that these have not."""
    for icon in icons:
        yield from icon.words
        yield from icon.tags
    yield from _COLOURS
    yield from GROUNDS
    for texts in (dict(PLAIN), *STYLED.values(), GROUNDED, *COUPLES.values()):
        for text in texts:
            yield text.format("", "", a="a an", s="", g="", a_g="a an")
            yield text.format("", "", a="", s="", g="", a_g="").replace(",", "")


class Scenes:
    """Draws scenes by chance, as training meets them; `pair_share` of them show two things."""

    def __init__(self, icons: Sequence[Icon], pair_share: float) -> None:
        self.icons = icons
        self._pair_share = pair_share
        self._by_style: dict[str, tuple[Any, Any]] = {}
        for style in STYLE_SHARES:
            members = [i for i, icon in enumerate(icons) if icon.style == style and not icon.pair_held_out]
            weights = np.array([icons[index].weight for index in members])
            self._by_style[style] = np.array(members), np.cumsum(weights / weights.sum())

    def _icon(self, random: Random, style: str) -> int:
        members, bounds = self._by_style[style]
        return int(members[min(int(np.searchsorted(bounds, random.random())), len(members) - 1)])

    def draw(self, random: Random) -> Scene:
        """A scene; its ground is what the caller makes of it where the drawings at hand leave no choice."""
        style = _pick(random, tuple(STYLE_SHARES.items()))
        ground = int(random.integers(1, len(GROUNDS))) if random.random() < GROUND_SHARE else 0
        first = self._icon(random, style)
        if random.random() >= self._pair_share:
            return Scene((first,), ground, (0, 0))
        while True:
            second = self._icon(random, style)
            labels = self.icons[first].label, self.icons[second].label
            if labels[0] != labels[1] and not couple_held_out(*labels):
                break
        place = list(COUPLES)[int(random.choice(len(COUPLES), p=COUPLE_SHARES))]
        return Scene((first, second), ground, place)


class Painter:
    """Composes the latents of scenes from those cached."""

    def __init__(self, latents: Latents, icons: Sequence[Icon]) -> None:
        self._latents = latents
        self._labels = [icon.label for icon in icons]
        self._styles = np.array([icon.style for icon in icons])
        self._allowed = np.array([not icon.pair_held_out for icon in icons])
        self._single_grounds = latents.grounds_of(latents.singles).numpy()
        self._tile_grounds = latents.grounds_of(latents.tiles).numpy()
        self._on_ground = {
            (style, ground): np.argwhere((self._tile_grounds == ground) & (self._styles == style) & self._allowed)
            for style in STYLE_SHARES
            for ground in range(1, len(GROUNDS))
        }

    def paint(self, random: Random, scene: Scene, plain: bool = False) -> tuple[Tensor, Scene]:
        """Latents `(4, edge, edge)` of a scene, and the scene as it was painted: drawings are cached on a few grounds
        each, so one thing alone takes a ground of its own, and two on a coloured ground are two that share it.

        Args:
            plain: things as they are, each in the middle of its place, as the text encoder tells of them. Otherwise
                one thing has a tinted ground where none is asked for, and two things are moved, on the default one.
        """
        if len(scene.icons) == 1:
            icon = scene.icons[0]
            variant = self._variant(random, self._single_grounds[:, icon], scene.ground, plain)
            ground = int(self._single_grounds[variant, icon])
            tinted = variant not in PLAIN_VARIANTS
            return self._latents.singles[variant, icon], Scene(scene.icons, ground, scene.place, tinted)
        tiles = []
        style = str(self._styles[scene.icons[0]])
        if plain and scene.ground and len(pool := self._on_ground[style, scene.ground]):
            tiles = [tuple(pool[int(random.integers(len(pool)))]) for _ in range(2)]
        labels = [self._labels[icon] for _, icon in tiles]
        if not tiles or labels[0] == labels[1] or couple_held_out(*labels):
            scene = Scene(scene.icons, 0, scene.place)
            tiles = [(self._variant(random, self._tile_grounds[:, icon], 0, plain), icon) for icon in scene.icons]
        painted = Scene((int(tiles[0][1]), int(tiles[1][1])), scene.ground, scene.place)
        latents = self._latents.grounds[scene.ground].clone()
        half = self._latents.tiles.shape[-1]
        for (variant, icon), sign in zip(tiles, (1, -1), strict=True):
            # Along the axis of the couple the tiles fill their halves; across it they lie about the middle.
            middle = half // 2 if plain else int(random.integers(half // 4, half - half // 4 + 1))
            down, across = (half * (axis * sign > 0) if axis else middle for axis in reversed(scene.place))
            latents[:, down : down + half, across : across + half] = self._latents.tiles[variant, icon]
        return latents, painted

    @staticmethod
    def _variant(random: Random, grounds: NDArray[np.int64], ground: int, plain: bool) -> int:
        """One of a drawing's variants, whose `grounds` these are: a plain one on a colour if `ground` is a colour."""
        choices = np.flatnonzero((grounds != 0) == (ground != 0))
        wanted = choices[np.isin(choices, PLAIN_VARIANTS) == plain]
        return int(random.choice(wanted if len(wanted) else choices))
