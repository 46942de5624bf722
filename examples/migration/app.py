#!/usr/bin/env python3
"""A service with a database whose schema changes while it is used. See migration.toml.

Each request writes a row and reads the latest ones, whichever release wrote them; one that reads nonsense is answered 500.
The server itself, with its graceful end, is that of ../python.
"""

import os
import pathlib
import sqlite3
import sys

# The release's own modules are in the working directory.
sys.path[:0] = [os.getcwd(), str(pathlib.Path(__file__).resolve().parents[1] / "python")]

import database  # noqa: E402
import server  # noqa: E402
import visits  # noqa: E402


class Answer(server.Answer):
    def do_GET(self):
        try:
            with database.connected() as db:
                visits.add(db, f"guest {os.environ.get('ZDSUP_INSTANCE')}")
            with database.connected() as db:
                latest = visits.latest(db)
        except sqlite3.Error as error:
            return self.answer(500, f"database: {error}")
        lost = [who for who in latest if not (who or "").startswith("guest ")]
        if lost:
            return self.answer(500, f"rows without a visitor: {lost}")
        self.answer(200, os.environ.get("ZDSUP_INSTANCE", "by hand"))


if __name__ == "__main__":
    server.main(Answer)
