"""Makes `.venv/triton`: a whole Triton server without a container, from a wheel that carries its files.

The wheel's own Python API and its dependencies are not used, so it gets a folder of its own. Its binaries
look for libraries in `nvidia_pytriton.libs` beside them; a link there to libpython is all that the Python
backend's stub needs, and no process needs LD_LIBRARY_PATH.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv" / "triton"
STAMP = FOLDER / "installed"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBPYTHON = f"libpython{PYTHON}.so.1.0"


def main() -> None:
    """Install, unless the pinned version is there already.

    Raises:
        SystemExit: with one sentence that says what is missing.
    """
    pin = wheel_pin()
    if STAMP.exists() and STAMP.read_text() == pin:
        return
    print(f"Installing {pin}, Triton's server binary, into .venv/triton", flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    install_wheel()
    place_stub()
    link_libpython()
    STAMP.write_text(pin)


def wheel_pin() -> str:
    """The pinned wheel and the Python it was set up for; a change of either means a new installation."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    return f"{groups['local-triton'][0]} for Python {PYTHON}"


def install_wheel() -> None:
    """Unpack the wheel without the dependencies of its Python API."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(FOLDER)]
    command += ["--progress-bar", "on" if sys.stdout.isatty() else "off"]
    command += ["--group", f"{ROOT / 'pyproject.toml'}:local-triton"]
    if subprocess.run(command, check=False).returncode:
        sys.exit("launch.sh: Triton's wheel could not be installed: see above (x86-64 Linux only)")


def place_stub() -> None:
    """Give the Python backend the stub for this Python, and drop those for the others (8 MB)."""
    server = FOLDER / "pytriton" / "tritonserver"
    stubs = server / "python_backend_stubs"
    shutil.copy2(stubs / PYTHON / "triton_python_backend_stub", server / "backends" / "python")
    shutil.rmtree(stubs)


def link_libpython() -> None:
    """Link libpython where the stub looks first."""
    library = installed_libpython() or unpacked_libpython()
    if library is None:
        sys.exit(
            f"launch.sh: Triton's Python backend needs {LIBPYTHON}, which this Python has not; "
            f"run: sudo apt-get install libpython{PYTHON} (or use a Python built with --enable-shared)"
        )
    (FOLDER / "nvidia_pytriton.libs" / LIBPYTHON).symlink_to(library)


def installed_libpython() -> Path | None:
    """The library of this very Python if it has one, else one of the same version that the loader knows."""
    folders = [sysconfig.get_config_var("LIBDIR"), os.path.join(sys.base_prefix, "lib"), *loader_folders()]
    candidates = (Path(folder) / LIBPYTHON for folder in folders if folder)
    return next((path for path in candidates if path.exists()), None)


def loader_folders() -> list[str]:
    """The folders in which `ldconfig` has seen the library."""
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    if not Path(ldconfig).exists():
        return []
    listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
    return [os.path.dirname(line.split()[-1]) for line in listing.splitlines() if f"{LIBPYTHON} " in line]


def unpacked_libpython() -> Path | None:
    """The library out of the distribution's package, which a fresh Debian or Ubuntu does not install."""
    # Ubuntu 24.04 calls the package libpython3.12t64
    names = [f"libpython{PYTHON}", f"libpython{PYTHON}t64"]
    folder = FOLDER / "libpython"
    subprocess.run([ROOT / "setup" / "debian_package.sh", folder, *names], check=False)
    return next(folder.glob(f"usr/lib/*/{LIBPYTHON}"), None)


if __name__ == "__main__":
    main()
