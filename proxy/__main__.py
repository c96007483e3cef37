"""`python -m proxy`: reads the settings, takes the ports, serves until SIGTERM."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile

from proxy import logs
from proxy.api_keys import ApiKeys, KeyFileError
from proxy.config import ConfigError, ProxyConfig


def main() -> int:
    """Run the proxy and return its exit status; a wrong setting costs one line and status 1."""
    try:
        config = ProxyConfig.from_env(os.environ)
        _share_metrics(config.workers)
        from proxy.process import listen, serve
        from proxy.workers import supervise

        ApiKeys(config.api_keys, config.api_keys_file)  # a file that cannot be used stops the start
        listeners = listen(config)
    except (ConfigError, KeyFileError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    logs.configure(config.log_format, config.log_level)
    for listener, api in zip(listeners, ("the OpenAI API", "the native API"), strict=False):
        logging.getLogger("proxy").info("%s listens on %s:%d", api, *listener.getsockname()[:2])
    if config.workers == 1:
        serve(config, listeners)
        return 0
    return supervise(config, listeners)


def _share_metrics(num_workers: int) -> None:
    """Have several processes count in one place; prometheus_client looks for it when it is imported."""
    if num_workers > 1:
        folder = tempfile.mkdtemp(prefix="slipstream-metrics-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder


if __name__ == "__main__":
    sys.exit(main())
