"""`python -m keeper [again]`: has Triton load the repository's models, and looks after it until SIGTERM.

With `again` the service has been ready before: a model that cannot be loaded is tried again, instead of ending it all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from keeper.config import ConfigError, KeeperConfig
from keeper.group_locks import GroupLocks
from keeper.healing import Healing
from keeper.load_error import LoadError
from keeper.stub import Stubs
from keeper.triton import GrpcTriton


def main() -> int:
    """Run the keeper and return its exit status; a wrong setting costs one line and status 1."""
    try:
        config = KeeperConfig.from_env(os.environ)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s"
    )
    try:
        asyncio.run(keep(config, is_first_start="again" not in sys.argv[1:]))
    except LoadError as error:
        sys.stderr.write(f"the model of group {error.model!r} did not load: {error.reason}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"TAKEOFF_ADMIN_PORT={config.admin_port} cannot be used: {error.strerror}; give a free port\n")
        return 1
    return 0


async def keep(config: KeeperConfig, *, is_first_start: bool) -> None:
    """Run every room of the keeper until SIGTERM or SIGINT; a room that fails ends them all."""
    triton, locks = GrpcTriton(config.triton_url), GroupLocks()
    healing = Healing(
        triton,
        Stubs(config.repository),
        locks,
        config.pass_timeout,
        wanted=[path.parent.name for path in config.repository.glob("*/config.pbtxt")],
        is_first_start=is_first_start,
    )
    runner = None
    if config.admin_key:
        from keeper.admin import serve_admin  # which imports a web server, and what renders groups
        from keeper.group_room import GroupRoom

        runner = await serve_admin(config, GroupRoom(triton, config.repository, locks, healing, os.environ))
    rooms = [asyncio.create_task(healing.run())]
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: [room.cancel() for room in rooms])
    try:
        await asyncio.gather(*rooms)
    except asyncio.CancelledError:
        pass
    finally:
        for room in rooms:
            room.cancel()
        await asyncio.wait(rooms)
        if runner is not None:
            await runner.cleanup()
        await triton.close()


if __name__ == "__main__":
    sys.exit(main())
