"""The stand-in impalad as impyla sees it. Usage: impalad_impyla.py HS2_PORT WEB_PORT, both on 127.0.0.1.

Ends with a traceback and a non-zero exit code at the first difference from what Impala would do.
"""

import sys
import time
import urllib.request

from impala.dbapi import connect
from impala.error import HiveServer2Error, OperationalError

HS2_PORT, WEB_PORT = int(sys.argv[1]), int(sys.argv[2])
NAME = "coordinator-1"


def connection():
    return connect("127.0.0.1", HS2_PORT, auth_mechanism="NOSASL", timeout=20, retries=1)


def switch(action):
    url = f"http://127.0.0.1:{WEB_PORT}/stand-in/{action}"
    urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10).close()


def refused(what, error, message):
    try:
        what()
    except error as found:
        assert message in str(found), f"expected {message!r} in {found!r}"
    else:
        raise AssertionError(f"expected {error.__name__}: {message}")


def the_name_of_the_coordinator():
    with connection() as client, client.cursor() as cursor:
        cursor.execute("select coordinator()")
        assert cursor.description[0][:2] == ("coordinator()", "STRING"), cursor.description
        assert cursor.fetchone() == (NAME,)
        assert cursor.fetchone() is None
        assert cursor.ping()


def large_results_in_batches():
    with connection() as client, client.cursor() as cursor:
        cursor.execute("select rows(50000)")
        assert [column[:2] for column in cursor.description] == [("id", "BIGINT"), ("text", "STRING")]
        count = 0
        for identifier, text in cursor:
            assert identifier == count and text == f"row {count}"
            count += 1
        assert count == 50000
        cursor.execute("select rows(2500)")
        assert len(cursor.fetchmany(7)) == 7
        assert cursor.fetchall() == [(row, f"row {row}") for row in range(7, 2500)]
        cursor.execute("select rows(0)")
        assert cursor.fetchall() == []


def a_query_that_runs_for_a_while():
    with connection() as client, client.cursor() as cursor:
        start = time.monotonic()
        cursor.execute_async("select sleep(300)")
        assert cursor.is_executing()
        assert cursor.fetchall() == [(True,)]
        assert time.monotonic() - start >= 0.3


def cancelling():
    with connection() as client, client.cursor() as cursor:
        cursor.execute_async("select sleep(3600000)")
        assert cursor.status() == "RUNNING_STATE"
        cursor.cancel_operation(reset_state=False)
        assert cursor.execution_failed()
        refused(cursor.fetchall, OperationalError, "Cancelled")
        cursor.close_operation()
        cursor.execute("select coordinator()")
        assert cursor.fetchall() == [(NAME,)]


def an_unknown_statement():
    with connection() as client, client.cursor() as cursor:
        refused(lambda: cursor.execute("drop table t"), HiveServer2Error, "select coordinator()")


def a_session_outlives_its_connection():
    with connection() as client, client.cursor() as cursor:
        cursor.execute("select rows(30000)")
        first = cursor.fetchmany(10)
        client.reconnect()
        rest = cursor.fetchall()
        assert [row[0] for row in first + rest] == list(range(30000))


def shutdown():
    with connection() as client, client.cursor() as cursor:
        cursor.execute("select rows(30000)")
        assert len(cursor.fetchmany(10)) == 10
        switch("shutdown")
        assert len(cursor.fetchall()) == 29990
        refused(lambda: cursor.execute("select rows(1)"), HiveServer2Error, "Server is being shut down")
        assert not cursor.ping()
        with connection() as late:
            refused(late.cursor, HiveServer2Error, "Server is being shut down")
        switch("serve")
        cursor.execute("select coordinator()")
        assert cursor.fetchall() == [(NAME,)]


def restart():
    client = connection()
    cursor = client.cursor()
    cursor.execute("select coordinator()")
    assert cursor.fetchall() == [(NAME,)]
    switch("restart")
    # impyla sees the reset, and opens a new connection by itself.
    refused(lambda: cursor.execute("select coordinator()"), HiveServer2Error, "Invalid session id")
    the_name_of_the_coordinator()


for test in [
    the_name_of_the_coordinator,
    large_results_in_batches,
    a_query_that_runs_for_a_while,
    cancelling,
    an_unknown_statement,
    a_session_outlives_its_connection,
    shutdown,
    restart,
]:
    test()
