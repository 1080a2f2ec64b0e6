"""A client that asks every 10 ms, and forgives nothing: run inside the container until its stdin ends.

    poll.py fresh    GET /livez over TCP, each on a connection of its own
    poll.py kept     GET /livez over TCP, on one connection as long as the daemon lets it live
    poll.py submit   POST /v1/actions over the Unix socket, each on a connection of its own

Prints "polling" after the first answer, keeps their number in /run/answered, and prints at the end one JSON object: how many requests were answered, the longest
wait in seconds, and the first errors. A refused or broken connection is an error, as is any status but the expected one.
"""

import http.client
import json
import os
import select
import socket
import sys
import time

PATIENCE_S = 60
EVERY_S = 0.01
mode = sys.argv[1]


class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect("/run/actiond/actiond.sock")


def ask(connection, number):
    if mode == "submit":
        action = {"user": "poll@example.com", "resource_type": "Poll", "action": "noop", "resource_id": number,
                  "started_via": "poll"}
        connection.request("POST", "/v1/actions", json.dumps(action), {"Content-Type": "application/json"})
    else:
        connection.request("GET", "/livez")
    answer = connection.getresponse()
    answer.read()
    expected = 202 if mode == "submit" else 200
    if answer.status != expected:
        raise RuntimeError(f"status {answer.status}")
    return mode == "kept" and not answer.will_close


answered = os.open("/run/answered", os.O_CREAT | os.O_WRONLY)
asked, longest, errors, connection = 0, 0.0, [], None
while not select.select([sys.stdin], [], [], EVERY_S)[0]:
    began = time.monotonic()
    if connection is None:
        if mode == "submit":
            connection = Unix("localhost", timeout=PATIENCE_S)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", 7466, timeout=PATIENCE_S)
    try:
        stays = ask(connection, asked + 1)
    except Exception as error:
        errors.append(f"request {asked + 1}: {type(error).__name__}: {error}")
        stays = False
    if not stays:
        connection.close()
        connection = None
    asked += 1
    os.pwrite(answered, b"%9d" % (asked - len(errors)), 0)
    longest = max(longest, time.monotonic() - began)
    if asked == 1:
        print("polling", flush=True)
print(json.dumps({"asked": asked, "longest_s": round(longest, 3), "errors": errors[:5]}), flush=True)
