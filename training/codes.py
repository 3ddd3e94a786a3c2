"""Codes of concepts: a vector of a few hundred numbers from which all drawings of a concept follow linearly.

A drawing consists of patches of 4 x 4 latents: 16 for a single object, 4 for each position in an image of two. A
principal component analysis over the patches of all styles gives each concept one code, and each patch a matrix:
`patch = mean + code @ decoder`. The matrices become weights of the text encoder (`train_text.write_decoders`). The text
encoder then only has to learn the code of each name, and which patch each region of the image shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from dataset import Latents
from icons import Icon
from scenes import RELATIONS, Scene
from sources import STYLES
from torch import Tensor
from torch.nn import functional

CODE_SIZE = 448
"""Length of a code. With 881 concepts in three styles it loses 4 % of the variance; 384 would lose 6 %."""

PATCH_EDGE = 4
COARSE_EDGE = 16
"""Edge in latents at which images are coded; larger latents are downsampled."""
REGION_SIZE = 4 * PATCH_EDGE**2
REGIONS = (COARSE_EDGE // PATCH_EDGE) ** 2
QUADRANTS = REGIONS // 4
VIEWS = REGIONS + QUADRANTS
"""Number of patches of an object: those of a single object, then those in an image of two, each in row order."""
NOTHING = -1


def patches_of(latents: Tensor, edge: int) -> Tensor:
    """Latents `(n, 4, height, width)`, resized to `edge`, as patches `(n, patches, REGION_SIZE)`."""
    coarse = functional.adaptive_avg_pool2d(latents.float(), edge)
    return functional.unfold(coarse, PATCH_EDGE, stride=PATCH_EDGE).transpose(1, 2)


def layout_of(place: tuple[int, int]) -> list[tuple[int, int]]:
    """For each region of a scene: the index of the object that it shows, or `NOTHING`, and the view."""
    if place == (0, 0):
        return [(0, region) for region in range(REGIONS)]
    edge = COARSE_EDGE // PATCH_EDGE
    half = edge // 2
    regions = [(NOTHING, 0)] * REGIONS
    for number, sign in enumerate((1, -1)):
        top, left = (half * (axis * sign > 0) if axis else half // 2 for axis in reversed(place))
        for quadrant in range(QUADRANTS):
            row, column = divmod(quadrant, half)
            regions[(top + row) * edge + left + column] = number, REGIONS + quadrant
    return regions


@dataclass(frozen=True)
class Codes:
    """Codes of all concepts, and how to decode them.

    Attributes:
        labels: labels of the concepts, in order.
        codes: `(concepts, CODE_SIZE)`.
        mean: `(styles, VIEWS, REGION_SIZE)`.
        decoders: `(styles, VIEWS, CODE_SIZE, REGION_SIZE)`.
        backgrounds: difference of each background from the default one, `(backgrounds, 4)`.
    """

    labels: list[str]
    codes: Tensor
    mean: Tensor
    decoders: Tensor
    backgrounds: Tensor

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Index of each concept by its label."""
        return {label: number for number, label in enumerate(self.labels)}

    def patches(self) -> Tensor:
        """All views of all concepts, minus the default background, `(concepts, styles, VIEWS, REGION_SIZE)`."""
        return self.mean + torch.einsum("ck,svkd->csvd", self.codes, self.decoders)

    @classmethod
    def of(cls, latents: Latents, icons: Sequence[Icon]) -> Codes:
        """Computes the codes of the plain drawings, with predicted latents for held-out ones if there are any.

        The code of a concept is the most probable one given its known drawings.
        """
        labels, styles = sorted({icon.label for icon in icons}), list(STYLES)
        white = latents.backgrounds[0].float()
        half = white.shape[-1] // 2

        def patches_from(singles: Tensor, tiles: Tensor) -> Tensor:
            # From the centre: latents at the border of an empty image differ, but tiles are cropped from larger images.
            middle = white[:, half // 2 : half // 2 + half, half // 2 : half // 2 + half]
            small = patches_of(tiles - middle, COARSE_EDGE // 2)
            return torch.cat((patches_of(singles - white, COARSE_EDGE), small), 1)

        real = patches_from(latents.singles[0], latents.tiles[0])
        patches = torch.zeros(len(labels), len(styles), VIEWS, REGION_SIZE)
        known_styles = torch.zeros(len(labels), len(styles), dtype=torch.bool)
        singles, tiles = latents.imagined("singles"), latents.imagined("tiles")
        predicted = iter(() if singles is None or tiles is None else patches_from(singles, tiles))
        for number, icon in enumerate(icons):
            at = labels.index(icon.label), styles.index(icon.style)
            if not icon.style_held_out:
                patches[at], known_styles[at] = real[number], True
            elif (prediction := next(predicted, None)) is not None:
                patches[at], known_styles[at] = prediction, True
        complete = patches[known_styles.all(1)]
        mean = complete.mean(0)
        _, lengths, components = torch.linalg.svd((complete - mean).flatten(1), full_matrices=False)
        kept = min(CODE_SIZE, len(lengths))
        variance = (lengths[:kept] ** 2 / len(complete)).double()
        noise = max(1e-3, float((lengths[kept:] ** 2).sum() / len(complete) / components.shape[1]))
        basis = torch.zeros(CODE_SIZE, *mean.shape)
        basis[:kept] = components[:kept].view(kept, *mean.shape)
        codes = torch.zeros(len(labels), CODE_SIZE)
        for row in range(len(labels)):
            known = basis[:kept, known_styles[row]].flatten(1).double()
            target = (patches[row] - mean)[known_styles[row]].flatten().double()
            # The posterior mean of probabilistic PCA (Tipping and Bishop 1999, section 3.2).
            gram = known @ known.T + noise * torch.diag(1 / variance.clamp(min=1e-9))
            codes[row, :kept] = torch.linalg.solve(gram, known @ target).float()
        backgrounds = latents.backgrounds.float().mean((2, 3))
        return cls(labels, codes, mean, basis.permute(1, 2, 0, 3).contiguous(), backgrounds - backgrounds[0])

    def regions_of(self, scenes: Sequence[Scene], icons: Sequence[Icon]) -> tuple[Tensor, Tensor, Tensor]:
        """For each region of each scene the concept it shows, or `NOTHING`, and the view; and the style of each scene.

        Returns:
            `(scenes, REGIONS)`, `(scenes, REGIONS)`, `(scenes,)`.
        """
        styles = list(STYLES)
        concepts, views = [], []
        for scene in scenes:
            shown = [self.numbers[icons[index].label] for index in scene.icons]
            layout = _LAYOUTS[scene.place]
            concepts.append([NOTHING if number == NOTHING else shown[number] for number, _ in layout])
            views.append([view for _, view in layout])
        style = [styles.index(icons[scene.icons[0]].style) for scene in scenes]
        return torch.tensor(concepts), torch.tensor(views), torch.tensor(style)


_LAYOUTS = {place: layout_of(place) for place in ((0, 0), *RELATIONS)}
