"""Teach the text encoder what things look like, before any image is drawn.

    python training/train_text.py --tokenizer CLIP --minutes 60

Each padding token of a caption tells what a region of the image holds; the UNet, trained on its states afterwards
(`train_unet.py`), looks into this sketch, region by region, and learns to draw it. Most of that is known beforehand and
written into the weights: which image follows from a code (`codes.py`, `write_decoders`), and the codes of names of
one word (`write_names`). By regression the encoder learns the rest: first, from names alone, the code of every name;
then, from whole captions, which thing each region shows, which part of it, and in what style.

Killed, it carries on from the last checkpoint. Writes `text/checkpoint.pt` and `text/log.jsonl`.
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
from model import CODE, GROUND, REGION, SQUARE, STYLE, TEXT_WIDTH, UNITS, VIEW, Captions, Vocabulary
from scenes import NAME_END, NOTHING_SHARE, Scene, Scenes, every_word, sentence_of
from session import Budget, Session, autocast, learning_rate, optimise
from sources import STYLES
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPTextModel

FILLER_SHARE = 0.15
"""Share of the captions with words that say nothing, such as unknown words are at drawing time."""

CAPTION_PAIR_SHARE = 0.5
"""Share of the captions that name two things: a thing has a sketch of its own in each of the places it can have."""

NAMES_SHARE = 0.25
"""Share of the time in which names alone are learnt: a name costs a fourth of a caption."""

TELLING_WEIGHT = 4.0
"""Of what the padding tells, in the loss, beside the squares that are made of it. Told slightly wrongly, a view or a
style makes a square that is a little off; with equal weights the padding went on so and made up for it elsewhere."""

COOL_DOWN = 0.4
PART = 64
"""Captions that are computed together: a few of like length, or the longest would make all of them long."""

RADIUS = 22.4
"""Length of a code together with its `FILL`: then the numbers of a token have a variance of about 1."""

LONGEST = 72.0
"""Length that codes as `Codes` has them are taken to have at most; of 881 seven are longer."""

CODE_SCALE = RADIUS / LONGEST
SWITCH = 6.0
"""What stands for yes in `VIEW` and `STYLE`; no is 0."""

REGION_SWITCH = 3.0
"""The same in `REGION`."""

OPEN = 5.0
"""Where the MLP's activation is as good as straight."""


def told_code(codes: Tensor) -> Tensor:
    """Codes `(..., CODE_SIZE)` as tokens tell them, `(..., CODE_SIZE + 1)`: all of one length, so that the layer norms,
    which take away how long a vector is, take nothing away.
    """
    scaled = CODE_SCALE * codes
    fill = (RADIUS**2 - scaled.square().sum(-1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat((scaled, fill), -1)


def layers_of(text_encoder: CLIPTextModel) -> list[CLIPEncoderLayer]:
    """Its layers, first to last."""
    return [cast("CLIPEncoderLayer", layer) for layer in text_encoder.encoder.layers]


@torch.no_grad()
def write_decoders(text_encoder: CLIPTextModel, codes: Codes) -> None:
    """Make the last layer turn what the padding tells into squares.

    Its attention starts out handing on what it looks at as it is. Its MLP has a group of units for each style and view.
    Both switches open a group: its units come to lie where the activation is straight, and each hands on one direction
    of the square; those of the other groups lie where it is zero. One unit more a group has the constant part. The
    directions that differ most from concept to concept get the units: many in the middle, few in the corners.
    """
    layer = layers_of(text_encoder)[-1]
    for linear in (layer.self_attn.v_proj, layer.self_attn.out_proj):
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
    first, second = layer.mlp.fc1, layer.mlp.fc2
    for linear in (first, second):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    deviation = math.sqrt((RADIUS**2 + 2 * SWITCH**2) / first.in_features)  # which the layer norm divides by
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
        # Of few concepts some directions have nothing; the floor keeps their weights within float16.
        spread = (length[:rank] / math.sqrt(len(codes.codes)) / 0.8).clamp(min=1e-2)
        signs = torch.ones(rank)
        signs[1::2] = -1  # an error of the switches moves all units of a group alike: let them cancel each other
        first.weight[units, CODE] = (signs * directions / spread).T * deviation / CODE_SCALE
        for switch in (VIEW.start + view, STYLE.start + style):
            first.weight[units.start : constant + 1, switch] = 2 * OPEN * deviation / SWITCH
        first.bias[units.start : constant + 1] = -3 * OPEN
        reads = (signs * spread)[:, None] * right
        second.weight[SQUARE, units] = reads.T
        second.weight[SQUARE, constant] = codes.mean[style, view] / OPEN - reads.sum(0)


@torch.no_grad()
def write_names(text_encoder: CLIPTextModel, codes: Codes, icons: Sequence[Icon], vocabulary: Vocabulary) -> None:
    """Let each token that ends names start out as the mean of their codes, and positions tell the regions."""
    for layer in layers_of(text_encoder)[:-1]:
        for linear in (layer.self_attn.out_proj, layer.mlp.fc2):
            linear.weight *= 0.3  # little noise on what passes by
    tokens, positions = (
        part.weight for part in (text_encoder.embeddings.token_embedding, text_encoder.embeddings.position_embedding)
    )
    positions[:, CODE] = 0
    places = torch.arange(len(positions))
    positions[places, REGION.start + places % REGIONS] = REGION_SWITCH
    told = told_code(codes.codes)
    names = sorted({(word, codes.numbers[icon.label]) for icon in icons for word in icon.words})
    sums, counts = torch.zeros(len(tokens), CODE_SIZE + 1), torch.zeros(len(tokens), 1)
    for row, (_, concept) in zip(vocabulary.rows([word for word, _ in names])[0], names, strict=True):
        sums[row[-2]] += told[concept]
        counts[row[-2]] += 1
    ending = counts[:, 0] > 0
    tokens[ending, : CODE_SIZE + 1] = (sums / counts.clamp(min=1))[ending]
    tokens[[vocabulary.end], : CODE_SIZE + 1] = 0


class Lessons:
    """Captions and what the text encoder is to make of them."""

    def __init__(self, scenes: Scenes, codes: Codes, vocabulary: Vocabulary) -> None:
        self._scenes, self._codes, self._vocabulary = scenes, codes, vocabulary
        self._told = torch.cat((told_code(codes.codes), told_code(torch.zeros(1, CODE_SIZE))))  # NOTHING is the last
        self._squares = codes.squares()

    def names(self, random: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Captions that end with a name.

        Returns:
            Token numbers `(count, tokens)`; of each name in them the row and the place of its last token `(names,)`,
            and what that is to tell `(names, CODE_SIZE + 1)`.
        """
        drawn = [self._scenes.draw(random) for _ in range(count)]
        texts = [sentence_of(random, scene, self._scenes.icons) for scene in drawn]
        cut = [text[: text.rindex(NAME_END) + 1] for text in texts]
        rows, ends = with_fillers(random, *self._vocabulary.rows(cut), self._vocabulary.neutral)
        ids = torch.full((count, max(map(len, rows))), self._vocabulary.end)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
        return ids, *self._of_names(drawn, ends)

    def _of_names(self, scenes: Sequence[Scene], ends: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        rows, places, concepts = [], [], []
        for number, (scene, named) in enumerate(zip(scenes, ends, strict=True)):
            for icon, place in zip(scene.icons, named, strict=False):
                rows.append(number)
                places.append(place)
                concepts.append(self._codes.numbers[self._scenes.icons[icon].label])
        return torch.tensor(rows), torch.tensor(places), self._told[concepts]

    def sketches(self, random: np.random.Generator, count: int) -> list[Lesson]:
        """Whole captions, in parts of like length."""
        drawn = [self._scenes.draw(random) for _ in range(count)]
        texts = [sentence_of(random, scene, self._scenes.icons) for scene in drawn]
        rows, ends, empty = caption_rows(random, texts, self._vocabulary)
        told, squares = self._tell(drawn, empty)
        order = np.argsort([len(row) for row in rows], kind="stable")
        parts = []
        for chosen in np.array_split(order, max(1, round(count / PART))):
            captions = Captions.of([rows[index] for index in chosen], self._vocabulary.end, random)
            names = self._of_names([drawn[index] for index in chosen], [ends[index] for index in chosen])
            parts.append(Lesson(captions, captions.regions(told[chosen]), captions.regions(squares[chosen]), *names))
        return parts

    def _tell(self, scenes: Sequence[Scene], empty: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        """What the padding is to tell of each region, `(scenes, REGIONS, TEXT_WIDTH)`, and the squares that these are,
        `(scenes, REGIONS, REGION_SIZE)`.
        """
        concepts, views, styles = self._codes.regions_of(scenes, self._scenes.icons)
        silent = torch.from_numpy(empty)
        concepts[silent] = NOTHING
        told = torch.zeros(len(scenes), REGIONS, TEXT_WIDTH)
        told[..., : CODE_SIZE + 1] = self._told[concepts]
        told[..., VIEW] = SWITCH * functional.one_hot(views, VIEWS) * (concepts != NOTHING)[..., None]
        told[..., STYLE] = SWITCH * functional.one_hot(styles, len(STYLES))[:, None] * ~silent[:, None, None]
        grounds = self._codes.grounds[[scene.ground for scene in scenes]]
        told[..., GROUND] = grounds[:, None] * ~silent[:, None, None]
        told[..., REGION] = REGION_SWITCH * torch.eye(REGIONS)
        squares = self._squares[concepts.clamp(min=0), styles[:, None], views] * (concepts != NOTHING)[..., None]
        return told, squares


@dataclass(frozen=True)
class Lesson:
    """Captions, and what is to be made of them.

    Attributes:
        told, squares: by the padding, `(captions, REGIONS, TEXT_WIDTH)` and `(captions, REGIONS, REGION_SIZE)`.
        rows, places: where names end `(names,)`.
        named: what these tokens are to tell, `(names, CODE_SIZE + 1)`.
    """

    captions: Captions
    told: Tensor
    squares: Tensor
    rows: Tensor
    places: Tensor
    named: Tensor


def with_fillers(
    random: np.random.Generator, rows: list[list[int]], ends: list[list[int]], neutral: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Some of the token rows with words that say nothing, at their beginning or end; and where their names end now."""
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
    """Token rows of sentences, some with filler words, some emptied; where names end; and which are empty."""
    empty = random.random(len(sentences)) < NOTHING_SHARE
    rows, ends = vocabulary.rows(["" if nothing else text for text, nothing in zip(sentences, empty, strict=True)])
    return *with_fillers(random, rows, ends, vocabulary.neutral), empty


def before_last(text_encoder: CLIPTextModel, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Hidden states before the last layer, `(batch, tokens, TEXT_WIDTH)`."""
    states: Tensor = text_encoder.embeddings(input_ids=ids, position_ids=positions)
    for layer in layers_of(text_encoder)[:-1]:
        states = layer(states, mask)
    return states


def squares_in(text_encoder: CLIPTextModel, telling: Tensor) -> Tensor:
    """What the last MLP makes of what the padding tells: squares, `(..., REGION_SIZE)`."""
    layer = layers_of(text_encoder)[-1]
    made: Tensor = telling + layer.mlp(layer.layer_norm2(telling))
    return made[..., SQUARE]


def tell(text_encoder: CLIPTextModel, captions: Captions) -> tuple[Tensor, Tensor]:
    """States before the last layer `(batch, tokens, TEXT_WIDTH)`, and those of the padding after its attention."""
    states = before_last(text_encoder, captions.ids, captions.positions, captions.mask)
    layer = layers_of(text_encoder)[-1]
    attended, _ = layer.self_attn(hidden_states=layer.layer_norm1(states), attention_mask=captions.mask)
    return states, (states + attended)[:, -REGIONS:]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = training_parser(__doc__, "--tokenizer", "--size", batch=PART, lr=1e-3)
    parser.add_argument(
        "--start", type=Path, help="exported model of the same drawings, whose text encoder is taken up"
    )
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    icons = read_icons(options.work)
    vocabulary = Vocabulary(options.tokenizer, every_word(icons))
    codes = Codes.of(Latents(options.work, options.size, icons, variants=1), icons)
    lessons = Lessons(Scenes(icons, CAPTION_PAIR_SHARE), codes, vocabulary)
    device = torch.device(options.device)
    if options.start:
        folder = options.start / "text_encoder"
        text_encoder = vocabulary.narrow(CLIPTextModel.from_pretrained(folder, local_files_only=True))
    else:
        text_encoder = vocabulary.new_text_encoder()
        write_decoders(text_encoder, codes)
        write_names(text_encoder, codes, icons, vocabulary)
    text_encoder.to(device)  # type: ignore[arg-type]
    for written in (layers_of(text_encoder)[-1].layer_norm2, layers_of(text_encoder)[-1].mlp):
        # Learning, they would make up for what the padding tells wrongly, and never be right where it tells it rightly.
        written.requires_grad_(False)
    weights = [weight for weight in text_encoder.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    losses: list[tuple[float, ...]] = []

    def log() -> None:
        if losses:
            means = np.mean(losses, 0).tolist()
            values = dict(zip(("names", "telling", "loss"), means, strict=False))
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
                ids, rows, places, named = (part.to(device) for part in lessons.names(random, options.batch))
                mask = torch.full((ids.shape[1],) * 2, -1e9, device=device).triu(1)[None, None]
                states = before_last(text_encoder, ids, torch.arange(ids.shape[1], device=device)[None], mask)
                loss = functional.mse_loss(states[rows, places, : CODE_SIZE + 1].float(), named)
                losses.append((loss.item(),))
            else:
                wrong = []
                for lesson in lessons.sketches(random, options.batch):
                    states, told = tell(text_encoder, lesson.captions.to(device))
                    ends = states[lesson.rows, lesson.places, : CODE_SIZE + 1]
                    pairs = (
                        (ends, lesson.named),
                        (told, lesson.told),
                        (squares_in(text_encoder, told), lesson.squares),
                    )
                    wrong.append(
                        torch.stack([functional.mse_loss(own.float(), right.to(device)) for own, right in pairs])
                    )
                names, telling, squares = torch.stack(wrong).mean(0)
                loss = 0.5 * names + TELLING_WEIGHT * telling + squares
                losses.append((names.item(), telling.item(), squares.item()))
        optimise(optimizer, loss, learning_rate(options.lr, step, done, cool_down=COOL_DOWN, floor=0.02))
        if session.step % 10 == 0:
            log()


def load_text_encoder(work: Path, vocabulary: Vocabulary) -> CLIPTextModel:
    """The text encoder as it stands, float32 on the CPU."""
    text_encoder = vocabulary.new_text_encoder()
    text_encoder.load_state_dict(load_checkpoint(work / "text")["text_encoder"])
    return text_encoder


if __name__ == "__main__":
    main()
