"""A federation on this machine: one SuperLink and a SuperNode for each party, over TLS on 127.0.0.1.

For trying things out, for tests, and as the script of a real deployment: what it makes and starts is what organisations
make and start on machines of their own (docs/how-to/flower-deployment.md).

    tls/            the authority's certificate, the SuperLink's certificate and key
    superlink/      database and log
    flower/         what the `flwr` command line reads: the address of the SuperLink
    nodes/NAME/     a party's files (`secfl.engines.flower.home`), its SuperNode's key and log
    deployment.json processes and ports, while it runs
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from protocols.errors import ConfigError, ProtocolError
from secfl.engines.flower.certificates import write_certificates, write_node_key
from secfl.files import write_whole

__all__ = ["ENVIRONMENT", "Deployment", "NodeSettings", "marked_processes", "simulate"]

ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}
"""Nothing is reported or fetched, and a message is picked up at once."""
MARK = "SECFL_DEPLOYMENT"
"""Environment variable by which the processes of a deployment, and all that they start, are known."""
CONNECTION = "loopback"
START_SECONDS = 180.0
STOP_SECONDS = 15.0
RUN_POLL_SECONDS = 2.0  # Flower's command line takes more than a second of processor time
HOST = "127.0.0.1"


@dataclass(frozen=True)
class NodeSettings:
    """A SuperNode.

    :param home: the party's folder.
    :param config: what its apps get as ``context.node_config``, beside the folder.
    """

    home: Path
    config: Mapping[str, str | int | float] = field(default_factory=dict)


class Deployment:
    """See the module.

    :param directory: of the deployment.
    :param nodes: by party.
    :param start: whose SuperNodes :meth:`start` starts; all by default. All are registered.
    """

    def __init__(
        self, directory: Path, nodes: Mapping[str, NodeSettings], *, start: Collection[str] | None = None
    ) -> None:
        self.directory = directory.resolve()
        self.nodes = dict(nodes)
        self._first = tuple(nodes if start is None else start)
        self._state = self.directory / "deployment.json"
        self._children: list[subprocess.Popen[bytes]] = []

    # -- life ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[Deployment]:
        """Start, and stop at the end whatever happens."""
        try:
            self.start()
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        """Make what is missing, start everything, and wait until every node is online.

        :raises ConfigError: it is running already.
        :raises ProtocolError: something did not start; its log's end is in the error.
        """
        if self.processes():
            raise ConfigError(str(self.directory), "this deployment is running", "stop it first")
        _require_flower()
        self.directory.mkdir(parents=True, exist_ok=True)
        write_certificates(self.directory / "tls", HOST)
        state = {"mark": secrets.token_hex(16), "port": _free_port(), "processes": {}}
        self._remember(state)
        self.start_superlink()
        for party in self.nodes:
            self._register(party)
        for party in self._first:
            self.start_node(party)
        self.wait_online(len(self._first))

    def start_superlink(self) -> None:
        """Start the SuperLink, on the port that it had before if there is one, and wait until it answers."""
        folder, tls, state = self.directory / "superlink", self.directory / "tls", self._read()
        folder.mkdir(exist_ok=True)
        self._write_connection(state["port"])
        self._launch(
            "superlink",
            [
                *("flower-superlink", "--host", HOST, "--port", str(state["port"])),
                *("--ssl-certfile", str(tls / "superlink.pem"), "--ssl-keyfile", str(tls / "superlink.key")),
                *("--ssl-ca-certfile", str(tls / "ca.pem"), "--enable-supernode-auth"),
                *("--database", str(folder / "state.sqlite"), "--disable-runtime-dependency-installation"),
            ],
            folder / "superlink.log",
            self.directory / "flower",
        )
        self._wait(lambda: _healthy(state["port"], tls / "ca.pem"), "superlink", folder / "superlink.log")

    def start_node(self, party: str) -> None:
        """Start a party's SuperNode."""
        settings, state = self.nodes[party], self._read()
        files = self.directory / "nodes" / party
        values = {"secfl-home": str(settings.home.resolve()), **settings.config}
        self._launch(
            party,
            [
                *("flower-supernode", "--superlink", f"{HOST}:{state['port']}"),
                *("--root-certificates", str(self.directory / "tls" / "ca.pem")),
                *("--auth-supernode-private-key", str(files / "supernode.key")),
                *("--host", HOST, "--port", str(_free_port())),
                *("--node-config", " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())),
            ],
            files / "supernode.log",
            files / "flower",
        )

    def stop_node(self, party: str) -> None:
        """Stop a party's SuperNode and wait for its end."""
        process = self.process(party)
        _send(process, signal.SIGTERM)
        self._wait(lambda: process not in self.processes(), party, self.directory / "nodes" / party / "supernode.log")

    def stop(self) -> None:
        """Stop everything that was started, first kindly; when it returns nothing of it runs."""
        if self._state.exists():
            stop_marked(self._read()["mark"])
        self._children = [child for child in self._children if child.poll() is None]
        self._state.unlink(missing_ok=True)

    def processes(self) -> list[int]:
        """Ids of all processes of this deployment, those that its processes started included."""
        return marked_processes(self._read()["mark"]) if self._state.exists() else []

    def process(self, name: str) -> int:
        """Id of the process of a party's SuperNode, or of ``superlink``."""
        return int(self._read()["processes"][name])

    # -- use -----------------------------------------------------------------------------------------------------------

    def flwr(self, *arguments: str) -> str:
        """Run Flower's command line against this SuperLink; what it prints.

        :raises ProtocolError: it failed; with what it printed.
        """
        done = subprocess.run(
            [_command("flwr"), *arguments],
            env=self._environment(self.directory / "flower"),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise ProtocolError(f"flwr {arguments[0]}: {(done.stdout + done.stderr).strip()[-2000:]}")
        return done.stdout

    def submit(self, app: Path, config: Mapping[str, str | int | float] | None = None) -> int:
        """Submit an app; the number of its run.

        :param config: over what its ``pyproject.toml`` has in ``[tool.flwr.app.config]``.
        """
        given = " ".join(f"{key}={json.dumps(value)}" for key, value in (config or {}).items())
        extra = ("--run-config", given) if given else ()
        return int(_json(self.flwr("run", str(app), CONNECTION, "--format", "json", *extra))["run-id"])

    def status(self, run: int) -> str:
        """Status of a run in Flower's words, such as ``running`` or ``finished:completed``."""
        listed = _json(self.flwr("list", CONNECTION, "--run-id", str(run), "--format", "json"))
        return str(listed["runs"][0]["status"])

    def wait(self, run: int, seconds: float, meanwhile: Callable[[], None] | None = None) -> str:
        """Wait for the end of a run; its status.

        :param meanwhile: called every now and then.
        :raises ProtocolError: it goes on.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.status(run)
            if meanwhile is not None:
                meanwhile()
            if status.startswith("finished"):
                return status
            time.sleep(RUN_POLL_SECONDS)
        raise ProtocolError(f"run {run} goes on after {seconds:g} seconds")

    def online(self) -> int:
        """Nodes that the SuperLink hears from."""
        nodes = _json(self.flwr("supernode", "list", CONNECTION, "--format", "json"))["nodes"]
        return sum(node["status"] == "online" for node in nodes)

    def wait_online(self, number: int) -> None:
        """Wait until the SuperLink hears from so many nodes."""
        self._wait(lambda: self.online() >= number, "SuperNodes", self.directory / "superlink" / "superlink.log")

    # -- the machinery -------------------------------------------------------------------------------------------------

    def _register(self, party: str) -> None:
        files = self.directory / "nodes" / party
        files.mkdir(parents=True, exist_ok=True)
        if write_node_key(files / "supernode.key"):
            self.flwr("supernode", "register", str(files / "supernode.key.pub"), CONNECTION, "--name", party)

    def _wait(self, done: Any, what: str, log: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not done():
            if time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
                raise ProtocolError(f"{what}: not there after {START_SECONDS:g} seconds\n{tail}")
            time.sleep(0.2)

    def _launch(self, name: str, command: list[str], log: Path, flower: Path) -> None:
        state = self._read()
        with log.open("ab") as output:
            process = subprocess.Popen(
                [_command(command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(flower),
                cwd=log.parent,
                start_new_session=True,
            )
        self._children.append(process)
        state["processes"][name] = process.pid
        self._remember(state)

    def _environment(self, flower: Path) -> dict[str, str]:
        """Of a process; ``flower`` is where Flower keeps what is that process's own."""
        return _base_environment(flower, self._read()["mark"])

    def _write_connection(self, port: int) -> None:
        folder = self.directory / "flower"
        folder.mkdir(exist_ok=True)
        address = {"address": f"{HOST}:{port}", "root-certificates": str(self.directory / "tls" / "ca.pem")}
        text = tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: address}})
        write_whole(folder / "config.toml", text.encode())

    def _read(self) -> dict[str, Any]:
        if not self._state.exists():
            raise ConfigError(str(self.directory), "no deployment runs here", "start it first")
        state: dict[str, Any] = json.loads(self._state.read_text())
        return state

    def _remember(self, state: dict[str, Any]) -> None:
        write_whole(self._state, json.dumps(state, indent=2).encode())


def simulate(
    directory: Path,
    app: Path,
    nodes: int,
    config: Mapping[str, str | int | float] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run an app with Flower's own simulation (``flwr run``, on Ray) and stop what it leaves running; the run's log.

    Nodes have no configuration of their own there but ``partition-id``: name their folders by ``SECFL_HOME``.

    :param directory: where Flower keeps what is this simulation's own.
    :param environment: beside `ENVIRONMENT`.
    :raises ProtocolError: it failed; with what it printed.
    """
    mark = secrets.token_hex(16)
    (directory / "flower").mkdir(parents=True, exist_ok=True)
    ports = {"FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(_free_port()), "FLWR_LOCAL_CONTROL_API_PORT": str(_free_port())}
    given = " ".join(f"{key}={json.dumps(value)}" for key, value in (config or {}).items())
    run = [_command("flwr"), "run", str(app), "local", "--stream", "--federation-config", f"num-supernodes={nodes}"]
    try:
        done = subprocess.run(
            [*run, *(("--run-config", given) if given else ())],
            env={**_base_environment(directory / "flower", mark), **ports, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        stop_marked(mark)
    if done.returncode:
        raise ProtocolError(f"flwr run: {(done.stdout + done.stderr).strip()[-4000:]}")
    return done.stdout


def stop_marked(mark: str) -> None:
    """Stop all processes with a mark, first kindly.

    :raises ProtocolError: one does not end.
    """
    for ask in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_SECONDS
        for process in marked_processes(mark):
            _send(process, ask)
        while marked_processes(mark) and time.monotonic() < deadline:
            time.sleep(0.1)
    left = marked_processes(mark)
    if left:
        raise ProtocolError(f"processes that do not end: {', '.join(map(str, left))}")


def marked_processes(mark: str) -> list[int]:
    """Ids of the living processes with this mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    return [process for process, environment in _environments() if wanted in environment.split(b"\0")]


def _environments() -> Iterable[tuple[int, bytes]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            yield int(entry.name), (entry / "environ").read_bytes()
        except OSError:  # it ended, or is somebody else's
            continue


def _base_environment(flower: Path, mark: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **ENVIRONMENT, "PATH": path, "FLWR_HOME": str(flower), MARK: mark}


def _send(process: int, what: signal.Signals) -> None:
    try:
        os.kill(process, what)
    except ProcessLookupError:
        return


def _command(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise ConfigError(name, "not found", "the extra flower in this environment")
    return found


def _require_flower() -> None:
    if not Path("/proc/self/environ").exists():
        raise ConfigError("deployment", "needs /proc, to find what it must stop", "Linux")
    for name in ("flower-superlink", "flower-supernode", "flwr"):
        _command(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _healthy(port: int, authority: Path) -> bool:
    try:
        context = ssl.create_default_context(cafile=str(authority))
        with urllib.request.urlopen(f"https://{HOST}:{port}/health", timeout=2, context=context) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _json(text: str) -> dict[str, Any]:
    """The JSON object at the end of what the command line printed."""
    value: dict[str, Any] = json.loads(text[text.index("{") :])
    return value
