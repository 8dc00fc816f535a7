"""Queries on connections that stay open, while something happens to the load balancer.

Usage: failover.py HOST PORT CONNECTIONS

Prints a line "ready" when all connections are open, runs queries on each of them until standard input ends, and prints one JSON object: how
many were answered, what went wrong, for how long there was no answer on any connection at most, and how long one query took at most.
"""

import json
import random
import sys
import threading
import time

from impala.dbapi import connect

HOST, PORT, CONNECTIONS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
# From one query of a connection to its next, in seconds. Not alike, so that at any moment some connection has something to ask.
PAUSE = (0.0, 0.4)

lock = threading.Lock()
answers, slowest, failures = [], 0.0, []
ended = threading.Event()


def one_connection(number, opened):
    global slowest
    try:
        # No retries: a query that fails is to be seen, not repeated.
        with connect(HOST, PORT, auth_mechanism="NOSASL", timeout=20, retries=1) as client:
            with client.cursor() as cursor:
                cursor.execute("select coordinator()")
                home = cursor.fetchone()[0]
                opened.wait()
                while not ended.wait(random.uniform(*PAUSE)):
                    begin = time.monotonic()
                    cursor.execute("select coordinator()")
                    found = cursor.fetchone()[0]
                    end = time.monotonic()
                    with lock:
                        answers.append(end)
                        slowest = max(slowest, end - begin)
                        if found != home:
                            failures.append(f"connection {number} was moved from {home} to {found}")
    except Exception as error:  # whatever it is, it is a failed query
        with lock:
            failures.append(f"connection {number}: {type(error).__name__}: {error}")
        opened.abort()


opened = threading.Barrier(CONNECTIONS + 1)
threads = [threading.Thread(target=one_connection, args=(number, opened)) for number in range(CONNECTIONS)]
for thread in threads:
    thread.start()
try:
    opened.wait()
except threading.BrokenBarrierError:
    pass
print("ready", flush=True)
sys.stdin.read()
ended.set()
for thread in threads:
    thread.join()
gaps = [after - before for before, after in zip(answers, answers[1:])]
milliseconds = lambda seconds: round(seconds * 1000)
print(
    json.dumps(
        {
            "answered": len(answers),
            "failures": failures,
            "longest_silence_ms": milliseconds(max(gaps, default=0.0)),
            "slowest_ms": milliseconds(slowest),
        }
    )
)
