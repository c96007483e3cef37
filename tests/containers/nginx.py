"""nginx with the configuration that docker/nginx ships, and a certificate made for it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.launch.launched import ROOT

CONFIGURATION = """\
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{ access_log off; include {folder}/slipstream.conf; }}
"""


@contextmanager
def nginx(folder: Path) -> Iterator[Path]:
    """Listens on ports 80 and 443; the certificate's path is the block's value."""
    certificate, key = folder / "slipstream.crt", folder / "slipstream.key"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*request, *names], check=True, capture_output=True)
    shipped = (ROOT / "docker/nginx/slipstream.conf").read_text()
    shipped = shipped.replace("/etc/nginx/tls", str(folder)).replace("llm.example.com", "localhost")
    (folder / "slipstream.conf").write_text(shipped)
    (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder))
    process = subprocess.Popen(["nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log"])
    try:
        yield certificate
    finally:
        process.terminate()
        process.wait()
