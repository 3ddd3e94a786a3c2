"""All training in one command: VAE, what is imagined, text encoder, the judges, UNet, the VAE on what the UNet draws.

    python training/train.py --tokenizer CLIP --teacher TAESD --minutes 120
    python training/train.py ... --mixed-precision bf16 --processes 2                       # on two CPU cores
    python training/train.py ... --mixed-precision bf16 --batch 256 --workers 8 --compile   # on a GPU

Each part is a command of its own, see their `--help`; options that are not listed here go to `train_unet.py`. Killed,
it carries on with the part that was running. Given more minutes than before, it trains every part further.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
COURSES = (
    (0.06, "train_vae.py"),
    (0.1, "imagine.py"),
    (0.16, "train_text.py"),
    (0.16, "classifier.py"),
    (0.28, "train_unet.py", "--copying"),
    (0.16, "train_unet.py"),
    (0.03, "redraw.py"),
    (0.05, "train_vae.py", "--redrawn"),
)
"""What is run, one after the other, and what part of the time each gets."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="training time of all parts, over all runs")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of CLIP's vocab.json and merges.txt")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of TAESD's two safetensors files")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--size", type=int, default=256, help="edge of the images in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--start", type=Path, help="exported model of the same drawings, which is trained further")
    parser.add_argument("--processes", type=int, default=1, help="of the UNet's training, on a CPU: one a core")
    options, for_unet = parser.parse_known_args()

    tokenizer = ["--tokenizer", str(options.tokenizer)]
    size = ["--size", str(options.size)]
    teacher = ["--teacher", str(options.teacher)]
    precision = ["--mixed-precision", options.mixed_precision]
    start = ["--start", str(options.start)] if options.start else []
    own = {
        "train_vae.py": [*size, *teacher, *precision, *start],
        "imagine.py": [*size, *teacher, *precision],
        "train_text.py": [*size, *tokenizer, *precision, *start],
        "classifier.py": precision,
        "redraw.py": [*size, *tokenizer, *precision],
        "train_unet.py": [*size, *tokenizer, *precision, *start, *for_unet],
    }
    spent: dict[str, float] = {}
    for share, script, *course in COURSES:
        # To each script the time is that of all its courses so far.
        minutes = spent[script] = spent.get(script, 0.0) + share * options.minutes
        command, environment = [sys.executable], dict(os.environ)
        if script == "train_unet.py" and options.processes > 1:
            # Not `accelerate launch --cpu --num_processes`, which starts one process whatever the number.
            command += ["-m", "torch.distributed.run", "--nproc-per-node", str(options.processes), "--"]
            environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        command += [str(HERE / script), "--minutes", str(minutes), *own[script], *course]
        command += ["--work", str(options.work), "--seed", str(options.seed)]
        print(f"{script} {' '.join(course)}: until {minutes:.1f} minutes", flush=True)
        subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
