"""Start of Ray on a busy machine, and clusters that are gone; without Ray's processes."""

import contextlib
import importlib
import signal
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from impala_mi.training import ray_cluster  # before Ray is imported

# isort: split
import ray
from ray._private import services
from ray._private.node import Node

from impala_mi.envs.suites import make_suite
from impala_mi.errors import StartError, UserError
from impala_mi.host.signals import Interrupted, interrupt
from impala_mi.runs.folder import new_run
from impala_mi.training import ray_start
from tests.tiny import tiny_config

SLOW = Exception("The current node timed out during startup.\nThis could happen because ...")
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


@pytest.fixture
def ended(monkeypatch):
    """The starts that were cleaned up, with a `ray.init` that fails as long as `failures` has errors."""
    calls = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_cluster, "_end_ray", calls.append)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 99, "GPU": 0})
    return calls


def start(monkeypatch, failures):
    def init(**options):
        if failures:
            raise failures.pop(0)

    monkeypatch.setattr(ray, "init", init)
    config = tiny_config()
    with ray_cluster.running_ray(config, make_suite(config.env)):
        pass


def test_a_ray_that_did_not_start_is_ended_and_started_again(monkeypatch, ended):
    with pytest.warns(
        UserWarning, match=r"did not start .*load .* node timed out during startup\.; starting it again"
    ):
        start(monkeypatch, [SLOW])
    assert len(ended) == 2  # the failed one, and the other at the end


def test_a_ray_that_never_starts_fails_and_is_no_bad_input(monkeypatch, ended):
    with (
        pytest.warns(UserWarning, match="starting it again"),
        pytest.raises(
            StartError, match=r"^Ray did not start on this machine, tried 3 times \(load .*timed out"
        ) as e,
    ):
        start(monkeypatch, [SLOW, SLOW, SLOW])
    assert "\n" not in str(e.value)
    assert len(ended) == 4


def test_the_name_of_a_run_whose_ray_did_not_start_stays_free(tmp_path):
    config = tiny_config(f"run.root={tmp_path}", "run.name=a")
    with pytest.raises(StartError), new_run(config, "test"):
        raise StartError("no Ray")
    assert not (tmp_path / "a").exists()


@pytest.fixture
def clock(monkeypatch):
    """Seconds on a clock that only sleeping moves."""
    seconds = [0.0]
    monkeypatch.setattr(ray_start.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(ray_start.time, "sleep", lambda s: seconds.append(seconds.pop() + s))
    return seconds


@pytest.mark.parametrize("needs_s", [5, 100, ray_start.NODE_S - 1])
def test_a_node_may_take_longer_than_ray_waits_for_it(monkeypatch, clock, needs_s):
    def registered(*args):
        if clock[0] < needs_s:
            raise RuntimeError("no node")
        return {"NodeID": "1"}

    monkeypatch.setattr(services, "get_node", registered)
    monkeypatch.setattr(ray_start, "_raylet_lives", lambda: True)
    with ray_start.patient_node():
        assert services.get_node("address", "1") == {"NodeID": "1"}
    assert clock[0] >= needs_s
    assert services.get_node is registered


@pytest.mark.parametrize(
    ("lives", "waits_s", "error"), [(False, 0, ConnectionError), (True, ray_start.NODE_S, RuntimeError)]
)
def test_a_node_that_will_not_start_is_not_waited_for_without_end(monkeypatch, clock, lives, waits_s, error):
    def missing(*args):
        raise RuntimeError("no node")

    monkeypatch.setattr(services, "get_node", missing)
    monkeypatch.setattr(ray_start, "_raylet_lives", lambda: lives)
    with ray_start.patient_node(), pytest.raises(error):
        services.get_node("address", "1")
    assert waits_s <= clock[0] <= waits_s + 1


def test_the_agents_of_a_second_start_get_different_free_ports(monkeypatch):
    params = SimpleNamespace(metrics_agent_port=None, metrics_export_port=1234, dashboard_agent_listen_port=0)
    monkeypatch.setattr(Node, "start_head_processes", lambda node: params)
    written = {}
    monkeypatch.setattr(ray_start, "persist_port", lambda session, node, name, port: written.update({name: port}))
    with ray_start.known_ports():
        Node.start_head_processes(SimpleNamespace(_ray_params=params, _session_dir="session", _node_id="node"))
    ports = [getattr(params, name) for name in ray_start.AGENT_PORTS]
    assert list(written.values()) == ports, "files from which the raylet reads them"
    assert ports[1] == 1234
    assert len(set(ports)) == 4
    for port in {*ports} - {1234}:
        socket.create_server(("", port)).close()  # free again


def test_only_later_starts_choose_the_ports_of_agents(monkeypatch, ended):
    before, chosen, failures = Node.start_head_processes, [], [SLOW, SLOW]

    def init(**options):
        chosen.append(Node.start_head_processes is not before)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(ray, "init", init)
    with pytest.warns(UserWarning, match="starting it again"):
        ray_start.start_node(lambda: None)
    assert chosen == [False, True, True]
    assert Node.start_head_processes is before


def test_no_raylet_lives_in_a_process_that_started_none():
    assert not ray_start._raylet_lives()


# -- RAY_ADDRESS -------------------------------------------------------------------------------


@contextlib.contextmanager
def server(answer):
    """Address at which a server answers whatever is said with some bytes, or never if they are None."""
    with socket.create_server(("", 0)) as listening:
        connections = []

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection = listening.accept()[0]
                    connections.append(connection)
                    if answer is not None:
                        connection.recv(100)
                        connection.sendall(answer)
                        connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize(
    ("answer", "reason"), [(None, "no answer"), (b"SSH-2.0-OpenSSH_9.2\r\n", "not Ray"), (b"", "not Ray")]
)
def test_what_is_no_ray_is_found_out_at_once(monkeypatch, scheme, answer, reason):
    monkeypatch.setattr(ray_start, "ANSWER_S", 1.2)
    start_s = time.monotonic()
    with server(answer) as address, pytest.raises(StartError, match=f"^RAY_ADDRESS={scheme}{address}: .*{reason}"):
        ray_start.check_cluster(scheme + address)
    assert time.monotonic() - start_s < 1.5


def test_a_port_that_nobody_listens_on_is_refused_at_once():
    with socket.create_server(("", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
    with pytest.raises(
        StartError, match=r"no Ray cluster answers there \(Connection refused\); start it, or unset"
    ):
        ray_start.check_cluster(address)


def test_a_name_whose_look_up_hangs_does_not_hang_the_run(monkeypatch):
    monkeypatch.setattr(ray_start, "ANSWER_S", 0.2)
    monkeypatch.setattr(ray_start, "_ask", lambda *_: time.sleep(1))
    with pytest.raises(StartError, match="no answer"):
        ray_start.check_cluster("10.0.0.1:6379")


@pytest.mark.parametrize("address", ["nonsense", "host:", ":6379", "host:port", "10.0.0.1:0", "10.0.0.1:70000"])
def test_what_is_no_address_is_bad_input(address):
    with pytest.raises(UserError, match=f"^RAY_ADDRESS='{address}': write it as HOST:PORT"):
        ray_start.check_cluster(address)


@pytest.mark.parametrize("refusal", [None, "InvalidAuthToken: Authentication token is missing\nmore"])
def test_the_token_is_tried_once_and_silently(monkeypatch, capfd, refusal):
    def client(address):
        import os

        os.write(2, b"gcs_client.cc:210: Failed to get cluster ID\n")
        if refusal is not None:
            raise RuntimeError(refusal)

    monkeypatch.setattr(ray_start, "GcsClient", client)
    with server(SETTINGS) as address:
        if refusal is None:
            ray_start.check_cluster(address)
        else:
            with pytest.raises(StartError, match=r"refuses .*: Authentication token is missing; its token"):
                ray_start.check_cluster(address)
    assert capfd.readouterr().err == ""


def test_a_cluster_that_is_gone_leaves_ray_alone(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("it would try for minutes"))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    config = tiny_config()
    with (
        pytest.raises(StartError, match=r"^RAY_ADDRESS=127\.0\.0\.1:1: "),
        ray_cluster.running_ray(config, make_suite(config.env)),
    ):
        pass


def hanging(started):
    def init(**options):
        started.append(time.monotonic())
        while True:
            with contextlib.suppress(Exception):  # as Ray does at places
                time.sleep(0.01)

    return init


def test_all_starts_together_have_a_limit(monkeypatch, ended):
    started, before = [], signal.getsignal(signal.SIGUSR2)
    monkeypatch.setattr(ray_start, "START_S", 0.1)
    monkeypatch.setattr(ray, "init", hanging(started))
    with pytest.raises(StartError, match=r"^Ray did not start .*, tried 1 time \(.*: it took longer than 0 s"):
        ray_start.start_node(lambda: ended.append("ended"))
    assert (len(started), ended) == (1, ["ended"])
    assert signal.getsignal(signal.SIGUSR2) is before
    assert "start limit" not in [thread.name for thread in threading.enumerate()]


def test_a_block_that_ends_in_time_is_left_alone_after_it():
    for _ in range(50):  # the time is up at any place of the end
        with contextlib.suppress(ray_start._TooLong), ray_start._limit(2e-4):
            time.sleep(1e-4)
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL, "the next one would end the process"
    assert "start limit" not in [thread.name for thread in threading.enumerate()]


def test_a_start_that_keeps_the_first_signal_gets_another(monkeypatch):
    monkeypatch.setattr(ray_start, "_ALARM_S", 0.02)
    kept = []

    def start():
        with ray_start._limit(0.02):
            try:
                time.sleep(30)
            except ray_start._TooLong as e:
                kept.append(e)
            time.sleep(30)

    with pytest.raises(ray_start._TooLong):
        start()
    assert len(kept) == 1


@pytest.fixture
def alarms():
    """The calls of a handler of SIGALRM, as that of a program around."""
    calls = []
    left = signal.setitimer(signal.ITIMER_REAL, 0)  # pytest-timeout's
    before = signal.signal(signal.SIGALRM, lambda *_: calls.append(time.monotonic()))
    yield calls
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, *left)


@pytest.mark.parametrize("late", [False, True])
def test_an_alarm_of_the_program_around_rings(alarms, late):
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with contextlib.suppress(ray_start._TooLong), ray_start._limit(0.02 if late else 60):
        time.sleep(0.04)
    assert not alarms
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    time.sleep(0.2)
    assert len(alarms) == 1


def test_ctrl_c_that_waits_for_an_import_is_not_lost_in_a_start(alarms):
    signal.signal(signal.SIGALRM, interrupt)  # as `interrupt` does while a module is imported
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    with pytest.raises(Interrupted), ray_start._limit(60):
        time.sleep(30)


def test_ctrl_c_while_a_start_imports_waits_and_the_limit_stays(tmp_path, monkeypatch, alarms):
    text = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhole = True\n"
    (tmp_path / "imported_by_a_start.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    kept = []

    def start():
        with ray_start._limit(0.2):
            try:
                importlib.import_module("imported_by_a_start")
                time.sleep(30)
            except Interrupted as e:
                kept.append(e)
            time.sleep(30)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(ray_start._TooLong):
            start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(kept) == 1
    assert sys.modules.pop("imported_by_a_start").whole


def test_other_threads_have_no_limit():
    done = []

    def start():
        with ray_start._limit(0.0):
            time.sleep(0.02)
        done.append(True)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(timeout=30)
    assert done


def test_no_start_begins_after_the_limit_and_a_node_is_not_waited_for_beyond_it(monkeypatch, clock, ended):
    def init(**options):
        clock.append(clock.pop() + 350)
        raise SLOW

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.warns(UserWarning, match="starting it again"),
        pytest.raises(StartError, match=r"tried 2 times \(.*: it took longer than 600 s"),
    ):
        ray_start.start_node(lambda: None)

    def missing(*args):
        raise RuntimeError("no node")

    monkeypatch.setattr(services, "get_node", missing)
    monkeypatch.setattr(ray_start, "_raylet_lives", lambda: True)
    now = clock[0]
    with ray_start.patient_node(now + 7), pytest.raises(RuntimeError):
        services.get_node("address", "1")
    assert clock[0] <= now + 8
