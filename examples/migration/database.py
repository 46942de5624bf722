"""The database, as requests and migrations open it."""

import contextlib
import os
import sqlite3

# Seconds that a request waits for somebody who writes. Whoever migrates must hold the lock for much less.
PATIENCE = 5


def connect(patience):
    db = sqlite3.connect(os.environ["DATABASE"], timeout=patience, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")  # who reads waits for nobody
    return db


@contextlib.contextmanager
def connected():
    """A connection for a request."""
    db = connect(PATIENCE)
    try:
        yield db
    finally:
        db.close()
