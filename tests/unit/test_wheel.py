"""The wheel: complete, without unnecessary files, and it works outside the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FILES = {
    "sdcli/__init__.py",
    "sdcli/py.typed",
    "sdcli/configs/stable-diffusion/v1-inference.yaml",
    "sdcli/configs/stable-diffusion/v1-inference-v.yaml",
    "sdcli/configs/stable-diffusion/v2-inference.yaml",
    "sdcli/configs/stable-diffusion/v2-inference-v.yaml",
    "sdcli/configs/inference/sd_xl_base.yaml",
    "sdcli/configs/inference/sd_xl_v.yaml",
    "sdcli/configs/latent-diffusion/txt2img-1p4B-eval.yaml",
    "sdcli/outputs/gallery.css",
    "sdcli/outputs/gallery.js",
    "sdcli/models/vocabularies/README.md",
    "sdcli/models/vocabularies/clip/config.json",
    "sdcli/models/vocabularies/clip/vocab.json",
    "sdcli/models/vocabularies/clip/merges.txt",
    "sdcli/models/vocabularies/bert/vocab.txt",
    "sdcli/inventory/known.json",
    "sdcli/models/builtin/README.md",
    "sdcli/models/builtin/model_index.json",
    "sdcli/models/builtin/scheduler/scheduler_config.json",
    "sdcli/models/builtin/text_encoder/config.json",
    "sdcli/models/builtin/text_encoder/model.safetensors",
    "sdcli/models/builtin/tokenizer/tokenizer_config.json",
    "sdcli/models/builtin/unet/config.json",
    "sdcli/models/builtin/unet/diffusion_pytorch_model.safetensors",
    "sdcli/models/builtin/vae/config.json",
    *(f"sdcli/models/builtin/words/{path.name}" for path in (ROOT / "sdcli/models/builtin/words").glob("*.json")),
    "sdcli/models/builtin/vae/diffusion_pytorch_model.safetensors",
    "sdcli/models/builtin-fast/README.md",
    "sdcli/models/builtin-fast/sheets/steps.webp",
    "sdcli/models/builtin-fast/unet/config.json",
    "sdcli/models/builtin-fast/unet/diffusion_pytorch_model.safetensors",
    *(f"sdcli/models/builtin/sheets/{name}.webp" for name in ("singles", "held-out", "couples", "grounds", "seeds")),
}
WEIGHTS_MEGABYTES = 80
WHEEL_MEGABYTES = 100


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_contains_what_it_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    names = {name for name in sizes if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "sdcli").rglob("*.py")}
    assert modules | FILES <= names
    extra = {"sdcli/models/builtin/tokenizer/vocab.json", "sdcli/models/builtin/tokenizer/merges.txt"}
    shipped = modules | FILES | extra | {"sdcli/models/vocabularies/bert/tokenizer_config.json"}
    shipped |= {"sdcli/models/vocabularies/clip/tokenizer_config.json"}
    assert names <= shipped, "no other files"
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    assert weights < WEIGHTS_MEGABYTES * 1e6
    assert wheel.stat().st_size < WHEEL_MEGABYTES * 1e6


@pytest.mark.slow
def test_an_installed_wheel_generates_images(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(installed), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    where = run("-c", "import sdcli; print(sdcli.__file__)")
    assert where.stdout.startswith(str(installed))
    generated = run(
        "-m", "sdcli", "txt2img", "--prompt", "a red apple", "--steps", "2", "--n_samples", "1", "--n_iter", "1",
        "--json", "--outdir", "out",
    )  # fmt: skip
    assert generated.returncode == 0, generated.stderr
    image, grid = (json.loads(line) for line in generated.stdout.splitlines())
    assert image["job"]["model"] == "builtin"
    assert (tmp_path / image["file"]).is_file()
    assert (tmp_path / grid["file"]).is_file()
    configs = run("-c", "from sdcli.models import shipped; print(shipped.configs())")
    assert configs.stdout.strip() == str(installed / "sdcli/configs")
