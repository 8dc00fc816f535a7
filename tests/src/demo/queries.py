"""Queries through a load balancer, as an application would make them.

Usage: queries.py HOST PORT CONNECTIONS QUERIES_PER_CONNECTION

Prints one JSON object: how many queries each coordinator answered, and what went wrong.
"""

import collections
import concurrent.futures
import json
import sys

from impala.dbapi import connect

HOST, PORT = sys.argv[1], int(sys.argv[2])
CONNECTIONS, QUERIES = int(sys.argv[3]), int(sys.argv[4])


def one_connection(number):
    answers, failures = [], []
    try:
        # No retries: a query that fails is to be seen, not repeated.
        with connect(HOST, PORT, auth_mechanism="NOSASL", timeout=20, retries=1) as client:
            with client.cursor() as cursor:
                for _ in range(QUERIES):
                    cursor.execute("select coordinator()")
                    answers.append(cursor.fetchone()[0])
                cursor.execute("select rows(100)")
                rows = len(cursor.fetchall())
                if rows != 100:
                    failures.append(f"connection {number}: 100 rows expected, {rows} came")
    except Exception as error:  # whatever it is, it is a failed query
        failures.append(f"connection {number}: {type(error).__name__}: {error}")
    if len(set(answers)) > 1:
        failures.append(f"connection {number} was moved: {answers}")
    return answers, failures


with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
    results = list(pool.map(one_connection, range(CONNECTIONS)))

connections = collections.Counter(answers[0] for answers, _ in results if answers)
queries = collections.Counter(answer for answers, _ in results for answer in answers)
failures = [failure for _, failures in results for failure in failures]
print(json.dumps({"connections": connections, "queries": queries, "failures": failures}))
