"""Measures how many steps each sampler and each schedule needs, and shows their images.

    python benchmarks/samplers.py                                    # table of samplers
    python benchmarks/samplers.py --schedules dpmpp_2m unipc euler   # table of their schedules
    python benchmarks/samplers.py --sheet docs/images/samplers.webp  # one prompt on every sampler
    python benchmarks/samplers.py --schedules dpmpp_2m --sheet docs/images/schedules.webp

The tables compare images of the builtin model with those of DDIM with 1000 steps: how far apart they are with 5, 10 and
20 steps (PSNR in dB, average over the prompts), the fewest steps with at least 30 dB, and the evaluations of the
model in them. A sampler that adds noise in each step does not converge to this answer, so it has no fewest steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sdcli.comparison import compare
from sdcli.errors import UsageError
from sdcli.pipeline import generate
from sdcli.pipeline.samplers import Plan
from sdcli.registry import SAMPLERS
from sdcli.run import Run
from sdcli.settings import Settings

PROMPTS = ("a fox on a blue background", "a red apple", "a rocket on a green background")
SHOWN = (5, 10, 20, 50)
"""Steps of the columns of the sheet."""
COMPARED = (5, 10, 20)
"""Steps of the columns of the table."""
MOST = 100
"""Steps up to which the fewest are looked for."""
ENOUGH = 30.0
"""PSNR in dB."""
EXACT = 1000
"""Steps of DDIM for the answer."""
SIDE, LABEL, GAP = 112, 20, 12
"""Pixels of the sheet: a side of an image, the height of a line of text, the space between blocks."""


class Bench:
    """The builtin model, and what it generates of some prompts.

    Args:
        prompts: one image each.
        answers: a file that keeps the images of DDIM with 1000 steps, which take minutes.
    """

    def __init__(self, prompts: Sequence[str], answers: Path | None = None) -> None:
        self.answers = answers
        run = Run(Settings.of(prompts=tuple(prompts), images_per_prompt=1, skip_save=True, skip_grid=True))
        self.jobs = [job for batch in run.batches() for job in batch]
        self.schedule = run.spec.schedule
        self.model = run.source.load(torch.device("cpu"), lambda part: None)
        self.images = cache(self._images)
        self.decibels = cache(self._decibels)

    def _images(self, sampler: str, schedule: str, steps: int) -> list[NDArray[np.uint8]]:
        """The images, (height, width, 3), RGB.

        Raises:
            UsageError: the sampler does not take so many steps.
        """
        SAMPLERS[sampler].check(Plan(steps, schedule), self.schedule)
        changes = {"sampler": sampler, "schedule": schedule, "steps": steps}
        pixels, _ = generate(self.model, [job.model_copy(update=changes) for job in self.jobs], lambda step: None)
        rounded = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return list(rounded.permute(0, 2, 3, 1).numpy())

    def _decibels(self, sampler: str, schedule: str, steps: int) -> float:
        """The average PSNR of the images with the answer of DDIM."""
        found = self.images(sampler, schedule, steps)
        return float(np.mean([compare(one, other).psnr for one, other in zip(found, self.answer, strict=True)]))

    @cached_property
    def answer(self) -> Sequence[NDArray[np.uint8]]:
        """The images of DDIM with 1000 steps."""
        if self.answers is not None and self.answers.exists():
            return list(np.load(self.answers))
        images = self.images("ddim", "auto", EXACT)
        if self.answers is not None:
            np.save(self.answers, images)
        return images

    def fewest(self, sampler: str, schedule: str) -> int | None:
        """The fewest steps with enough decibels; more steps are taken to give more. None if `MOST` are too few."""
        below, above = 1, MOST
        for steps in COMPARED:
            if self.decibels(sampler, schedule, steps) < ENOUGH:
                below = steps
            else:
                above = steps
                break
        else:
            try:
                if self.decibels(sampler, schedule, MOST) < ENOUGH:
                    return None
            except UsageError:
                return None
        while above - below > 1:
            steps = (below + above) // 2
            try:
                enough = self.decibels(sampler, schedule, steps) >= ENOUGH
            except UsageError:
                enough = False
            below, above = (below, steps) if enough else (steps, above)
        return above


def table(bench: Bench, rows: Iterable[tuple[str, str]]) -> None:
    """Print a table in Markdown: a row for each sampler and schedule."""
    heads = [*(f"{steps} steps" for steps in COMPARED), f"steps to {ENOUGH:g} dB", "evaluations"]
    print(f"| sampler | schedule | {' | '.join(heads)} |")
    print(f"| --- | --- |{' ---: |' * len(heads)}", flush=True)
    for sampler, schedule in rows:
        cells = [f"{bench.decibels(sampler, schedule, steps):.1f}" for steps in COMPARED]
        if SAMPLERS[sampler].order == 0:
            cells += ["adds noise", ""]
        elif (steps := bench.fewest(sampler, schedule)) is None:
            cells += [f"more than {MOST}", ""]
        else:
            cells += [str(steps), str(SAMPLERS[sampler].evaluations(Plan(steps, schedule), bench.schedule))]
        print(f"| `{sampler}` | {schedule} | {' | '.join(cells)} |", flush=True)


def sheet(bench: Bench, rows: Sequence[tuple[str, str]]) -> Image.Image:
    """The first image of each sampler and schedule with `SHOWN` steps: a block for each, two blocks side by side."""
    width, height = len(SHOWN) * SIDE, LABEL + SIDE
    down = -(-len(rows) // 2)
    page = Image.new("RGB", (2 * width + 3 * GAP, LABEL + down * (height + GAP)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for number, (sampler, schedule) in enumerate(rows):
        column, row = divmod(number, down)
        left, top = GAP + column * (width + GAP), LABEL + row * (height + GAP)
        pen.text((left, top), sampler if schedule == "auto" else f"{sampler}, {schedule}", "black", font)
        for place, steps in enumerate(SHOWN):
            image = Image.fromarray(bench.images(sampler, schedule, steps)[0])
            page.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left + place * SIDE, top + LABEL))
            if row == 0:
                pen.text((left + place * SIDE + SIDE // 2, 0), f"{steps} steps", "black", font, anchor="ma")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--schedules", nargs="+", metavar="SAMPLER", choices=[*SAMPLERS], help="every schedule of these"
    )
    parser.add_argument("--samplers", nargs="+", choices=[*SAMPLERS], default=[*SAMPLERS], help="only these")
    parser.add_argument("--answers", type=Path, metavar="FILE.npy", help="keeps the images of DDIM with 1000 steps")
    parser.add_argument("--prompts", nargs="+", default=PROMPTS, help="the sheet shows the first")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write a sheet of images instead of a table")
    given = parser.parse_args()
    rows = [(name, "auto") for name in given.samplers]
    if given.schedules:
        rows = [(name, schedule) for name in given.schedules for schedule in ("auto", *SAMPLERS[name].schedules)]
    if given.sheet is None:
        table(Bench(given.prompts, given.answers), rows)
    else:
        sheet(Bench(given.prompts[:1]), rows).save(given.sheet, quality=80)


if __name__ == "__main__":
    main()
