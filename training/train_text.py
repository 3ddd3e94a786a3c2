"""Trains the text encoder to predict coarse images, before any UNet is trained.

    python training/train_text.py --tokenizer CLIP --minutes 60

Each padding token of a caption describes one region of the image. The UNet, trained later on these states
(`train_unet.py`), attends to this coarse image region by region. Most of it is computed and not learnt: the patches
that follow from a code (`codes.py`, `write_decoders`), and the codes of names of one word (`write_names`). The rest
is learnt by regression: first the code of each name, from names alone; then, from whole captions, the object, view
and style of each region.

After an interruption, the same command continues from the last checkpoint. Writes `text/checkpoint.pt` and
`text/log.jsonl`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from arguments import training_parser
from codes import CODE_SIZE, NOTHING, REGIONS, VIEWS, Codes
from dataset import Latents, load_checkpoint, read_icons
from icons import Icon
from model import BACKGROUND, CODE, PATCH, REGION, STYLE, TEXT_WIDTH, UNITS, VIEW, Captions, Vocabulary
from scenes import EMPTY_SHARE, NAME_END, Scene, Scenes, caption_of, every_word
from session import Budget, Session, autocast, learning_rate, optimise
from sources import STYLES
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPTextModel

FILLER_SHARE = 0.15
"""Fraction of the captions with neutral filler words, since unknown words are replaced by them in inference."""

CAPTION_PAIR_SHARE = 0.5
"""Fraction of the captions with two objects: each object has different patches in each position."""

NAMES_SHARE = 0.25
"""Fraction of the budget that is spent on names alone: a name costs a quarter of a caption."""

PADDING_WEIGHT = 4.0
"""Loss weight of the padding states; that of the patches decoded from them is 1. A view or style that is slightly
wrong changes the patch only a little, so with equal weights the states stayed wrong and other components
compensated."""

COOL_DOWN = 0.4
PART = 64
"""Captions that are encoded together: few, and of similar length, so that little is padding."""

NORM = 22.4
"""Norm of a code with its `FILL`; the components of a token then have a variance of about 1."""

MAX_NORM = 72.0
"""Codes of `Codes` are assumed to have at most this norm; seven of 881 are longer."""

CODE_SCALE = NORM / MAX_NORM
ACTIVE = 6.0
"""Value of the active component of `VIEW` and `STYLE`; the others are 0."""

REGION_ACTIVE = 3.0
"""The same for `REGION`."""

OPEN = 5.0
"""Input at which the activation of the MLP is nearly linear."""


def fixed_norm(codes: Tensor) -> Tensor:
    """Scales codes `(..., CODE_SIZE)` and appends a component that gives all the same norm, `(..., CODE_SIZE + 1)`.

    Layer norms remove the norm of a vector: with a fixed one, no information is lost.
    """
    scaled = CODE_SCALE * codes
    fill = (NORM**2 - scaled.square().sum(-1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat((scaled, fill), -1)


def layers_of(text_encoder: CLIPTextModel) -> list[CLIPEncoderLayer]:
    """The layers of the text encoder, first to last."""
    return [cast("CLIPEncoderLayer", layer) for layer in text_encoder.encoder.layers]


@torch.no_grad()
def write_decoders(text_encoder: CLIPTextModel, codes: Codes) -> None:
    """Initialises the last layer so that it decodes the padding states into patches.

    Its attention initially passes values on unchanged. Its MLP has a group of units for each style and view. The
    group is active if both one-hot components are: its units are then in the linear range of the activation, and
    each passes on one direction of the patch; the units of all other groups are in the range where it is zero. One
    more unit per group adds the constant. The directions with the largest variance over the concepts get the units:
    many in the centre of the image, few in its corners.
    """
    layer = layers_of(text_encoder)[-1]
    for linear in (layer.self_attn.v_proj, layer.self_attn.out_proj):
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
    first, second = layer.mlp.fc1, layer.mlp.fc2
    for linear in (first, second):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    deviation = math.sqrt((NORM**2 + 2 * ACTIVE**2) / first.in_features)  # the divisor of the layer norm
    groups = [(style, view) for style in range(len(STYLES)) for view in range(VIEWS)]
    parts = [torch.linalg.svd(codes.codes @ codes.decoders[group], full_matrices=False)[1:] for group in groups]
    lengths = torch.stack([length for length, _ in parts])  # (groups, REGION_SIZE)
    count = min(UNITS - len(groups), lengths.numel())
    chosen = lengths.flatten().topk(count).indices // lengths.shape[1]
    ranks = torch.bincount(chosen, minlength=len(groups)).tolist()
    start = 0
    for (style, view), (length, right), rank in zip(groups, parts, ranks, strict=True):
        units, constant = slice(start, start + rank), start + rank
        start = constant + 1
        right = right[:rank]
        directions = codes.decoders[style, view] @ right.T  # (CODE_SIZE, rank)
        # With few concepts some directions have no variance; the minimum keeps the weights in the range of float16.
        spread = (length[:rank] / math.sqrt(len(codes.codes)) / 0.8).clamp(min=1e-2)
        signs = torch.ones(rank)
        signs[1::2] = -1  # errors of the one-hot inputs shift all units of a group: they cancel
        first.weight[units, CODE] = (signs * directions / spread).T * deviation / CODE_SCALE
        for switch in (VIEW.start + view, STYLE.start + style):
            first.weight[units.start : constant + 1, switch] = 2 * OPEN * deviation / ACTIVE
        first.bias[units.start : constant + 1] = -3 * OPEN
        reads = (signs * spread)[:, None] * right
        second.weight[PATCH, units] = reads.T
        second.weight[PATCH, constant] = codes.mean[style, view] / OPEN - reads.sum(0)


@torch.no_grad()
def write_names(text_encoder: CLIPTextModel, codes: Codes, icons: Sequence[Icon], vocabulary: Vocabulary) -> None:
    """Initialises the embeddings: last tokens of names with the mean of their codes, positions with their regions."""
    for layer in layers_of(text_encoder)[:-1]:
        for linear in (layer.self_attn.out_proj, layer.mlp.fc2):
            linear.weight *= 0.3  # adds little noise to the residual stream
    tokens, positions = (
        part.weight for part in (text_encoder.embeddings.token_embedding, text_encoder.embeddings.position_embedding)
    )
    positions[:, CODE] = 0
    places = torch.arange(len(positions))
    positions[places, REGION.start + places % REGIONS] = REGION_ACTIVE
    codes_by_concept = fixed_norm(codes.codes)
    names = sorted({(word, codes.numbers[icon.label]) for icon in icons for word in icon.words})
    sums, counts = torch.zeros(len(tokens), CODE_SIZE + 1), torch.zeros(len(tokens), 1)
    for row, (_, concept) in zip(vocabulary.rows([word for word, _ in names])[0], names, strict=True):
        sums[row[-2]] += codes_by_concept[concept]
        counts[row[-2]] += 1
    ending = counts[:, 0] > 0
    tokens[ending, : CODE_SIZE + 1] = (sums / counts.clamp(min=1))[ending]
    tokens[[vocabulary.end], : CODE_SIZE + 1] = 0


class CaptionBatches:
    """Training captions and their targets."""

    def __init__(self, scenes: Scenes, codes: Codes, vocabulary: Vocabulary) -> None:
        self._scenes, self._codes, self._vocabulary = scenes, codes, vocabulary
        self._fixed = torch.cat((fixed_norm(codes.codes), fixed_norm(torch.zeros(1, CODE_SIZE))))  # the last is NOTHING
        self._patches = codes.patches()

    def names(self, random: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Captions that are cut after a name.

        Returns:
            Token numbers `(count, tokens)`; of each name in them the row and the position of its last token `(names,)`,
            and the target of that token `(names, CODE_SIZE + 1)`.
        """
        scenes = [self._scenes.sample(random) for _ in range(count)]
        texts = [caption_of(random, scene, self._scenes.icons) for scene in scenes]
        cut = [text[: text.rindex(NAME_END) + 1] for text in texts]
        rows, ends = with_fillers(random, *self._vocabulary.rows(cut), self._vocabulary.neutral)
        ids = torch.full((count, max(map(len, rows))), self._vocabulary.end)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
        return ids, *self._of_names(scenes, ends)

    def _of_names(self, scenes: Sequence[Scene], ends: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        rows, places, concepts = [], [], []
        for number, (scene, named) in enumerate(zip(scenes, ends, strict=True)):
            for icon, place in zip(scene.icons, named, strict=False):
                rows.append(number)
                places.append(place)
                concepts.append(self._codes.numbers[self._scenes.icons[icon].label])
        return torch.tensor(rows), torch.tensor(places), self._fixed[concepts]

    def captions(self, random: np.random.Generator, count: int) -> list[CaptionBatch]:
        """Whole captions, in parts of similar length."""
        scenes = [self._scenes.sample(random) for _ in range(count)]
        texts = [caption_of(random, scene, self._scenes.icons) for scene in scenes]
        rows, ends, empty = caption_rows(random, texts, self._vocabulary)
        padding, patches = self._targets(scenes, empty)
        order = np.argsort([len(row) for row in rows], kind="stable")
        parts = []
        for chosen in np.array_split(order, max(1, round(count / PART))):
            captions = Captions.of([rows[index] for index in chosen], self._vocabulary.end, random)
            names = self._of_names([scenes[index] for index in chosen], [ends[index] for index in chosen])
            parts.append(
                CaptionBatch(captions, captions.regions(padding[chosen]), captions.regions(patches[chosen]), *names)
            )
        return parts

    def _targets(self, scenes: Sequence[Scene], empty: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        """Targets of the padding states, `(scenes, REGIONS, TEXT_WIDTH)`, and the patches that they decode to,
        `(scenes, REGIONS, REGION_SIZE)`.
        """
        concepts, views, styles = self._codes.regions_of(scenes, self._scenes.icons)
        empty_rows = torch.from_numpy(empty)
        concepts[empty_rows] = NOTHING
        padding = torch.zeros(len(scenes), REGIONS, TEXT_WIDTH)
        padding[..., : CODE_SIZE + 1] = self._fixed[concepts]
        padding[..., VIEW] = ACTIVE * functional.one_hot(views, VIEWS) * (concepts != NOTHING)[..., None]
        padding[..., STYLE] = ACTIVE * functional.one_hot(styles, len(STYLES))[:, None] * ~empty_rows[:, None, None]
        backgrounds = self._codes.backgrounds[[scene.background for scene in scenes]]
        padding[..., BACKGROUND] = backgrounds[:, None] * ~empty_rows[:, None, None]
        padding[..., REGION] = REGION_ACTIVE * torch.eye(REGIONS)
        patches = self._patches[concepts.clamp(min=0), styles[:, None], views] * (concepts != NOTHING)[..., None]
        return padding, patches


@dataclass(frozen=True)
class CaptionBatch:
    """Captions and their targets.

    Attributes:
        padding: targets of the padding tokens, `(captions, REGIONS, TEXT_WIDTH)`.
        patches: the patches that these decode to, `(captions, REGIONS, REGION_SIZE)`.
        rows, places: positions of the last tokens of names, `(names,)`.
        named: targets of these tokens, `(names, CODE_SIZE + 1)`.
    """

    captions: Captions
    padding: Tensor
    patches: Tensor
    rows: Tensor
    places: Tensor
    named: Tensor


def with_fillers(
    random: np.random.Generator, rows: list[list[int]], ends: list[list[int]], neutral: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Adds neutral words to some of the token rows, at the start or the end, and shifts the positions of names."""
    filled, moved = [], []
    for row, places in zip(rows, ends, strict=True):
        before, behind = 0, 0
        if len(row) > 2 and random.random() < FILLER_SHARE:
            for _ in range(int(random.integers(1, 5))):
                if random.random() < 0.5:
                    before += 1
                else:
                    behind += 1
        filled.append([row[0], *[neutral] * before, *row[1:-1], *[neutral] * behind, row[-1]])
        moved.append([place + before for place in places])
    return filled, moved


def caption_rows(
    random: np.random.Generator, sentences: list[str], vocabulary: Vocabulary
) -> tuple[list[list[int]], list[list[int]], np.ndarray[Any, Any]]:
    """Tokenizes captions, some with filler words, some emptied. Also returns where names end, and which are empty."""
    empty = random.random(len(sentences)) < EMPTY_SHARE
    rows, ends = vocabulary.rows(["" if nothing else text for text, nothing in zip(sentences, empty, strict=True)])
    return *with_fillers(random, rows, ends, vocabulary.neutral), empty


def before_last(text_encoder: CLIPTextModel, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Hidden states before the last layer, `(batch, tokens, TEXT_WIDTH)`."""
    states: Tensor = text_encoder.embeddings(input_ids=ids, position_ids=positions)
    for layer in layers_of(text_encoder)[:-1]:
        states = layer(states, mask)
    return states


def patches_from(text_encoder: CLIPTextModel, padding: Tensor) -> Tensor:
    """Decodes padding states with the last MLP into patches, `(..., REGION_SIZE)`."""
    layer = layers_of(text_encoder)[-1]
    decoded: Tensor = padding + layer.mlp(layer.layer_norm2(padding))
    return decoded[..., PATCH]


def encode(text_encoder: CLIPTextModel, captions: Captions) -> tuple[Tensor, Tensor]:
    """States before the last layer `(batch, tokens, TEXT_WIDTH)`, and the padding states after its attention."""
    states = before_last(text_encoder, captions.ids, captions.positions, captions.mask)
    layer = layers_of(text_encoder)[-1]
    attended, _ = layer.self_attn(hidden_states=layer.layer_norm1(states), attention_mask=captions.mask)
    return states, (states + attended)[:, -REGIONS:]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = training_parser(__doc__, "--tokenizer", "--size", batch=PART, lr=1e-3)
    parser.add_argument(
        "--start", type=Path, help="exported model of the same drawings, whose text encoder is the start"
    )
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    icons = read_icons(options.work)
    vocabulary = Vocabulary(options.tokenizer, every_word(icons))
    codes = Codes.of(Latents(options.work, options.size, icons, variants=1), icons)
    caption_batches = CaptionBatches(Scenes(icons, CAPTION_PAIR_SHARE), codes, vocabulary)
    device = torch.device(options.device)
    if options.start:
        folder = options.start / "text_encoder"
        text_encoder = vocabulary.narrow(CLIPTextModel.from_pretrained(folder, local_files_only=True))
    else:
        text_encoder = vocabulary.new_text_encoder()
        write_decoders(text_encoder, codes)
        write_names(text_encoder, codes, icons, vocabulary)
    text_encoder.to(device)  # type: ignore[arg-type]
    for fixed in (layers_of(text_encoder)[-1].layer_norm2, layers_of(text_encoder)[-1].mlp):
        # If these were trained, they would compensate for wrong padding states, and be wrong for right ones.
        fixed.requires_grad_(False)
    weights = [weight for weight in text_encoder.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    losses: list[tuple[float, ...]] = []

    def log() -> None:
        if losses:
            means = np.mean(losses, 0).tolist()
            values = dict(zip(("names", "padding", "loss"), means, strict=False))
            session.log(captions=session.samples, **values)
            losses.clear()

    parts = {"text_encoder": text_encoder, "optimizer": optimizer}
    session = Session(
        options.work / "text", Budget.of(options), parts, device, save_seconds=60, samples=options.batch, on_save=log
    )
    for step, done in session:
        random = np.random.default_rng([options.seed, step, 1])
        with autocast(options):
            names_only = done < NAMES_SHARE
            if losses and names_only != (len(losses[-1]) == 1):
                log()
            if names_only:
                ids, rows, places, named = (part.to(device) for part in caption_batches.names(random, options.batch))
                mask = torch.full((ids.shape[1],) * 2, -1e9, device=device).triu(1)[None, None]
                states = before_last(text_encoder, ids, torch.arange(ids.shape[1], device=device)[None], mask)
                loss = functional.mse_loss(states[rows, places, : CODE_SIZE + 1].float(), named)
                losses.append((loss.item(),))
            else:
                errors = []
                for batch in caption_batches.captions(random, options.batch):
                    states, padding = encode(text_encoder, batch.captions.to(device))
                    ends = states[batch.rows, batch.places, : CODE_SIZE + 1]
                    pairs = (
                        (ends, batch.named),
                        (padding, batch.padding),
                        (patches_from(text_encoder, padding), batch.patches),
                    )
                    errors.append(
                        torch.stack([functional.mse_loss(own.float(), right.to(device)) for own, right in pairs])
                    )
                names, padding_loss, patches = torch.stack(errors).mean(0)
                loss = 0.5 * names + PADDING_WEIGHT * padding_loss + patches
                losses.append((names.item(), padding_loss.item(), patches.item()))
        optimise(optimizer, loss, learning_rate(options.lr, step, done, cool_down=COOL_DOWN, floor=0.02))
        if session.step % 10 == 0:
            log()


def load_text_encoder(work: Path, vocabulary: Vocabulary) -> CLIPTextModel:
    """The text encoder of the last checkpoint, float32 on the CPU."""
    text_encoder = vocabulary.new_text_encoder()
    text_encoder.load_state_dict(load_checkpoint(work / "text")["text_encoder"])
    return text_encoder


if __name__ == "__main__":
    main()
