"""Kills and restarts the daemon at random while it carries out actions: run inside the container.

    storm.py ACTIONS KILLS RESTARTS

Submits the actions `five_steps` over three queues, each with an idempotency key and again until it is answered, a few ahead
of what the blows so far are worth, so that programs run during all of them. The daemon gets SIGKILL (its unit starts it
again) or `systemctl restart`, in random order and at random moments: its start and the submissions are among them.

Prints one JSON object: the ids in the order of submission; how many requests were `unanswered` and how many `repeated` ones
found their action there; the kills and restarts that came while programs ran, and the kills of a daemon that was still
starting; the seconds it took; its seed. Anything that should not be is an exception.
"""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ACTIONS, KILLS, RESTARTS = (int(number) for number in sys.argv[1:])
UNIT = "actiond.service"
PROGRAM = "five-steps"
AHEAD = 8
PATIENCE_S = 60
LULL_S = 0.2


class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect("/run/actiond/actiond.sock")


def post(number):
    """Submits an action; gives its id, and whether it was there."""
    action = {"user": "storm@example.com", "resource_type": "Storm", "action": "five_steps", "resource_id": number,
              "started_via": "storm", "queue": f"storm-{number % 3}", "idempotency_key": f"storm-{number}"}
    connection = Unix("localhost", timeout=PATIENCE_S)
    try:
        connection.request("POST", "/v1/actions", json.dumps(action), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status not in (200, 202):
        raise RuntimeError(f"action {number}: status {answer.status}: {text}")
    return json.loads(text)["id"], answer.status == 200


class Submitter(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.allowed = threading.Semaphore(0)
        self.ids, self.unanswered, self.repeated, self.error = [], 0, 0, None

    def run(self):
        try:
            for number in range(1, ACTIONS + 1):
                self.allowed.acquire()
                self.ids.append(self.submit(number))
        except Exception as error:
            self.error = error

    def submit(self, number):
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                action, was_there = post(number)
                self.repeated += was_there
                return action
            # What a killed daemon leaves of a connection.
            except (ConnectionError, http.client.IncompleteRead, http.client.BadStatusLine):
                self.unanswered += 1
                if time.monotonic() > end:
                    raise


def comm(process):
    try:
        return (Path("/proc") / process / "comm").read_text().strip()
    except OSError:
        return None


def programs_run():
    return any(comm(process) == PROGRAM for process in os.listdir("/proc") if process.isdigit())


def shown():
    """The daemon's pid, and the state of its unit."""
    properties = ["systemctl", "show", "--property=MainPID,ActiveState", UNIT]
    lines = subprocess.run(properties, check=True, capture_output=True, text=True).stdout.splitlines()
    values = dict(line.split("=", 1) for line in lines)
    return int(values["MainPID"]), values["ActiveState"]


def daemon_after(before):
    """Another daemon than that, once it is there and no longer systemd on the way to become it."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        pid, _ = shown()
        if pid not in (0, before) and comm(str(pid)) == "actiond":
            return pid
    raise RuntimeError(f"no daemon within {PATIENCE_S} s")


def blow(kind, pid):
    """Gives whether programs ran, and whether the daemon was still starting."""
    is_starting = shown()[1] != "active"
    amid = programs_run()
    if kind == "restart":
        subprocess.run(["systemctl", "restart", UNIT], check=True)
    else:
        os.kill(pid, signal.SIGKILL)
    return amid, kind == "kill" and is_starting


seed = time.time_ns()
random.seed(seed)
began = time.monotonic()
blows = ["kill"] * KILLS + ["restart"] * RESTARTS
random.shuffle(blows)
submitter = Submitter()
submitter.start()
allowed, pid = 0, None
count = {"kills_amid": 0, "restarts_amid": 0, "starting": 0}
for number, kind in enumerate(blows):
    pid = daemon_after(pid)
    # The moment is what is random; every other one is soon after what is submitted.
    time.sleep(LULL_S * random.random())
    due = min(ACTIONS, AHEAD + ACTIONS * number // len(blows))
    if due > allowed:
        submitter.allowed.release(due - allowed)
        allowed = due
    time.sleep(random.choice([0.005, LULL_S]) * random.random())
    amid, is_starting = blow(kind, pid)
    count[f"{kind}s_amid"] += amid
    count["starting"] += is_starting
if ACTIONS > allowed:
    submitter.allowed.release(ACTIONS - allowed)
submitter.join(PATIENCE_S)
if submitter.error or submitter.is_alive():
    raise submitter.error or RuntimeError("the last actions are not submitted")
print(json.dumps({"ids": submitter.ids, "unanswered": submitter.unanswered, "repeated": submitter.repeated, **count,
                  "seconds": round(time.monotonic() - began, 1), "seed": seed}))
