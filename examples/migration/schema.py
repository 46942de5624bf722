"""How the schema is changed without blocking requests:

- whoever changes it waits for the lock a moment, and not for ever (`LOCK_TIMEOUT`);
- and holds it for at most `LOCK_BUDGET`, or is interrupted and undone;
- many rows are changed a few at a time, each time in a transaction of its own.
"""

import sqlite3
import time

# Seconds.
LOCK_TIMEOUT = 1
LOCK_BUDGET = 0.2


class Locked:
    """A transaction that holds the lock for a short time, or is undone."""

    def __init__(self, db):
        self.db = db

    def __enter__(self):
        self.db.execute("BEGIN IMMEDIATE")  # waits for the lock, by the connection's timeout
        self.until = time.monotonic() + LOCK_BUDGET
        # Asked every so many instructions of SQLite's machine; true interrupts the statement.
        self.db.set_progress_handler(self.is_late, 1000)

    def is_late(self):
        return time.monotonic() > self.until

    def __exit__(self, kind, error, _):
        self.db.set_progress_handler(None, 0)
        if error is None:
            self.db.execute("COMMIT")
            return
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError) and self.is_late():
            raise sqlite3.OperationalError(f"it would block requests for more than {LOCK_BUDGET} s") from error


def in_batches(db, statement, rows=500):
    """Runs a statement for some rows after the other: its two parameters are the first and the last id."""
    (last,) = db.execute("SELECT coalesce(max(id), 0) FROM visits").fetchone()
    for first in range(1, last + 1, rows):
        with Locked(db):
            db.execute(statement, (first, first + rows - 1))
        time.sleep(0.005)  # requests have their turn


def columns(db):
    return [row[1] for row in db.execute("PRAGMA table_info(visits)")]
