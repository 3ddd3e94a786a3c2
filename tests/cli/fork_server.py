"""The program that forks a process for each command: `python fork_server.py`, driven by `conftest.ForkServer`.

To start `sdcli` takes seconds, nearly all of them for imports. This program imports everything once. It reads requests
from standard input, one JSON object a line, and answers each with one line of JSON on standard output:

    {"do": "start", "arguments": [...], ...}    the process id of a new process that runs `sdcli ARGUMENTS`
    {"do": "wait", "child": 1, "seconds": 9}    its exit code, or null after that many seconds; 0 seconds: a look
    {"do": "shell", "command": "..."}           the exit code of a shell command

The first line of the answers is the number of threads; a process with more than one cannot be forked safely. So no
model is loaded here, and onnxruntime, which starts threads when it is imported, is left to the child processes.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    "cv2", "imwatermark", "torch", "numpy", "yaml", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "PIL.WebPImagePlugin",
    "diffusers.loaders.single_file_utils", "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.autoencoders.autoencoder_tiny", "diffusers.models.autoencoders.vq_model",
    "diffusers.models.unets.unet_2d_condition", "diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion",
    "diffusers.schedulers.scheduling_ddim", "diffusers.schedulers.scheduling_dpmsolver_multistep",
    "diffusers.schedulers.scheduling_pndm", "transformers.models.bert.tokenization_bert",
    "transformers.models.clip.modeling_clip", "transformers.models.clip.tokenization_clip",
)  # fmt: skip
"""What sdcli imports when it needs it."""


def preload() -> None:
    # As sdcli.cli.main() sets them before it imports the libraries; tests/cli/test_start.py checks that it does.
    os.environ.update(TRANSFORMERS_VERBOSITY="error", DIFFUSERS_VERBOSITY="error")
    for name in LIBRARIES:
        importlib.import_module(name)
    import sdcli

    # The command line first, as in a real process: the order of imports has to work.
    for name in ("sdcli.cli", "sdcli.txt2img"):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(sdcli.__path__, "sdcli."):
        if module.name != "sdcli.__main__":
            importlib.import_module(module.name)
    # transformers compiles a thousand regular expressions when it loads its first model, and keeps them.
    with contextlib.suppress(ImportError, AttributeError):
        from transformers import conversion_mapping

        conversion_mapping.get_checkpoint_conversion_mapping("clip_text_model")


def run_command(request: dict[str, Any]) -> NoReturn:
    """In the child: become the process that the request describes."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, path in enumerate(request["streams"]):
        file = os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY, 0o644)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0)  # noqa: SIM115
    if request["file_size"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], request["file_size"]))
    sys.argv = ["sdcli", *request["arguments"]]
    code: object = 1
    try:
        exec(request["before"], {"__name__": "before"})
        importlib.import_module("sdcli.cli").main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    leave(code)


def leave(code: object) -> NoReturn:
    """End as Python ends, but for freeing every object, which takes seconds with all that is imported."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
    status = (code if isinstance(code, int) else int(code is not None)) & 0xFF
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            status = 120
    os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    pause = 0.001
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def main() -> None:
    # The tests may run where these are ignored (a shell's background job, nohup), and that is not what they test.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    preload()
    # The objects of the imports are left alone by the garbage collection of the children, and their memory is shared.
    gc.collect()
    gc.freeze()
    threads = Path("/proc/self/task")
    print(len(list(threads.iterdir())) if threads.is_dir() else threading.active_count(), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer: int | None
        if request["do"] == "start":
            answer = os.fork()
            if answer == 0:
                run_command(request)
        elif request["do"] == "wait":
            answer = wait(request["child"], request["seconds"])
        else:
            answer = subprocess.run(request["command"], shell=True, stdin=subprocess.DEVNULL, check=False).returncode
        print(json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
