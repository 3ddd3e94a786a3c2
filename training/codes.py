"""What things look like, in a few hundred numbers each: the codes that the text encoder tells from names.

Cut into squares of 4 x 4 latents, a drawing is 16 of them where it is alone, and 4 in each of the places it can have
beside another. A principal component analysis over all squares in all styles gives each concept one code, from which
any square follows by a matrix: `square = mean + code @ decoder`. The matrices become weights of the text encoder
(`train_text.write_decoders`); what remains to be learnt is which code a name has, and which square a region shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from dataset import Latents
from icons import Icon
from scenes import COUPLES, Scene
from sources import STYLES
from torch import Tensor
from torch.nn import functional

CODE_SIZE = 448
"""Numbers in a code. Of 881 concepts in three styles it leaves 4 % of the variance out, 384 would leave 6 %."""

SQUARE = 4
SKETCH_EDGE = 16
"""Edge in latents of an image as it is coded; larger latents are coarsened to it."""
REGION_SIZE = 4 * SQUARE**2
REGIONS = (SKETCH_EDGE // SQUARE) ** 2
QUADRANTS = REGIONS // 4
VIEWS = REGIONS + QUADRANTS
"""Squares of a thing: those of it alone, then those of it beside another, each row by row."""
NOTHING = -1


def squares_of(latents: Tensor, edge: int) -> Tensor:
    """Latents `(n, 4, height, width)` -> squares of them at an edge of `edge` latents, `(n, squares, REGION_SIZE)`."""
    coarse = functional.adaptive_avg_pool2d(latents.float(), edge)
    return functional.unfold(coarse, SQUARE, stride=SQUARE).transpose(1, 2)


def shown_in(place: tuple[int, int]) -> list[tuple[int, int]]:
    """For each region of a scene: which of its things it shows, or `NOTHING`, and which view of it."""
    if place == (0, 0):
        return [(0, region) for region in range(REGIONS)]
    edge = SKETCH_EDGE // SQUARE
    half = edge // 2
    regions = [(NOTHING, 0)] * REGIONS
    for thing, sign in enumerate((1, -1)):
        top, left = (half * (axis * sign > 0) if axis else half // 2 for axis in reversed(place))
        for quadrant in range(QUADRANTS):
            row, column = divmod(quadrant, half)
            regions[(top + row) * edge + left + column] = thing, REGIONS + quadrant
    return regions


@dataclass(frozen=True)
class Codes:
    """Codes of all concepts, and what they stand for.

    Attributes:
        labels: of the concepts, in order.
        codes: `(concepts, CODE_SIZE)`.
        mean: `(styles, VIEWS, REGION_SIZE)`, and
        decoders: `(styles, VIEWS, CODE_SIZE, REGION_SIZE)`: what `squares` are made of.
        grounds: what each ground adds to the default one, `(grounds, 4)`.
    """

    labels: list[str]
    codes: Tensor
    mean: Tensor
    decoders: Tensor
    grounds: Tensor

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Place of each concept, by its label."""
        return {label: number for number, label in enumerate(self.labels)}

    def squares(self) -> Tensor:
        """All views of everything, less the default ground, `(concepts, styles, VIEWS, REGION_SIZE)`."""
        return self.mean + torch.einsum("ck,svkd->csvd", self.codes, self.decoders)

    @classmethod
    def of(cls, latents: Latents, icons: Sequence[Icon]) -> Codes:
        """From the plain drawings; imagined ones stand in for those that are held out, or none where there are none.

        The code of a concept is the likeliest one given what is known of it.
        """
        labels, styles = sorted({icon.label for icon in icons}), list(STYLES)
        white = latents.grounds[0].float()
        half = white.shape[-1] // 2

        def squares_in(singles: Tensor, tiles: Tensor) -> Tensor:
            # From the middle: at the rim an empty image's latents are others, but tiles are cut out of larger ones.
            middle = white[:, half // 2 : half // 2 + half, half // 2 : half // 2 + half]
            small = squares_of(tiles - middle, SKETCH_EDGE // 2)
            return torch.cat((squares_of(singles - white, SKETCH_EDGE), small), 1)

        drawn = squares_in(latents.singles[0], latents.tiles[0])
        squares = torch.zeros(len(labels), len(styles), VIEWS, REGION_SIZE)
        seen = torch.zeros(len(labels), len(styles), dtype=torch.bool)
        singles, tiles = latents.imagined("singles"), latents.imagined("tiles")
        standing_in = iter(() if singles is None or tiles is None else squares_in(singles, tiles))
        for number, icon in enumerate(icons):
            at = labels.index(icon.label), styles.index(icon.style)
            if not icon.pair_held_out:
                squares[at], seen[at] = drawn[number], True
            elif (made := next(standing_in, None)) is not None:
                squares[at], seen[at] = made, True
        whole = squares[seen.all(1)]
        mean = whole.mean(0)
        _, lengths, components = torch.linalg.svd((whole - mean).flatten(1), full_matrices=False)
        kept = min(CODE_SIZE, len(lengths))
        variance = (lengths[:kept] ** 2 / len(whole)).double()
        noise = max(1e-3, float((lengths[kept:] ** 2).sum() / len(whole) / components.shape[1]))
        basis = torch.zeros(CODE_SIZE, *mean.shape)
        basis[:kept] = components[:kept].view(kept, *mean.shape)
        codes = torch.zeros(len(labels), CODE_SIZE)
        for row in range(len(labels)):
            known = basis[:kept, seen[row]].flatten(1).double()
            wanted = (squares[row] - mean)[seen[row]].flatten().double()
            # The mean of the posterior of probabilistic PCA (Tipping and Bishop 1999, section 3.2).
            gram = known @ known.T + noise * torch.diag(1 / variance.clamp(min=1e-9))
            codes[row, :kept] = torch.linalg.solve(gram, known @ wanted).float()
        grounds = latents.grounds.float().mean((2, 3))
        return cls(labels, codes, mean, basis.permute(1, 2, 0, 3).contiguous(), grounds - grounds[0])

    def regions_of(self, scenes: Sequence[Scene], icons: Sequence[Icon]) -> tuple[Tensor, Tensor, Tensor]:
        """For each region of each scene the concept it shows, or `NOTHING`, and the view; and each scene's style.

        Returns:
            `(scenes, REGIONS)`, `(scenes, REGIONS)`, `(scenes,)`.
        """
        styles = list(STYLES)
        concepts, views = [], []
        for scene in scenes:
            things = [self.numbers[icons[index].label] for index in scene.icons]
            shown = _SHOWN[scene.place]
            concepts.append([NOTHING if thing == NOTHING else things[thing] for thing, _ in shown])
            views.append([view for _, view in shown])
        style = [styles.index(icons[scene.icons[0]].style) for scene in scenes]
        return torch.tensor(concepts), torch.tensor(views), torch.tensor(style)


_SHOWN = {place: shown_in(place) for place in ((0, 0), *COUPLES)}
