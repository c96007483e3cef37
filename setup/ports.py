"""Checks that the ports to be served are free, before anything is started.

Usage: ports.py HOST:SETTING=PORT...
"""

import socket
import sys


def main(arguments: list[str]) -> None:
    """Check every port.

    Raises:
        SystemExit: with one sentence about the first that cannot be used.
    """
    seen: dict[int, str] = {}
    for argument in arguments:
        address, _, value = argument.partition("=")
        host, _, setting = address.rpartition(":")
        port = parse_port(setting, value)
        if port in seen:
            sys.exit(f"launch.sh: {setting}={port} cannot be used: {seen[port]} is {port} too; give another")
        seen[port] = setting
        if problem := bind_problem(host, port):
            sys.exit(f"launch.sh: {problem_sentence(problem, host, port, setting)}")


def parse_port(setting: str, value: str) -> int:
    """The port as a number; what is none ends the program with the setting's name."""
    if not (value.isascii() and value.isdecimal() and 1 <= int(value) <= 65535):
        sys.exit(f"launch.sh: {setting}={value!r} cannot be used: give a port number from 1 to 65535")
    return int(value)


def bind_problem(host: str, port: int) -> OSError | None:
    """What binding the address fails with, the way a server binds it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        return error
    return None


def problem_sentence(problem: OSError, host: str, port: int, setting: str) -> str:
    """One sentence with the port, its setting and the fix."""
    if isinstance(problem, socket.gaierror):
        return f"host {host!r} cannot be used: {problem.strerror}; give an address of this machine"
    if isinstance(problem, PermissionError):
        return f"port {port} ({setting}) needs root: give a port above 1023"
    if "in use" not in str(problem):
        return f"{host}:{port} ({setting}) cannot be used: {problem.strerror}"
    return f"port {port} is in use: stop the program that listens there, or set {setting} to a free port"


if __name__ == "__main__":
    main(sys.argv[1:])
