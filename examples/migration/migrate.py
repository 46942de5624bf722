#!/usr/bin/env python3
"""Changes the schema while requests are answered: `migrate.py expand` before a release starts, `migrate.py contract` when
nobody needs the old schema any more.

What is changed is the release's business, `visits.py` in the working directory: a list of steps, each of which may be
done twice, since a hook may be run again. Whatever goes wrong is an exit status: the upgrade fails, and the old release
goes on with the schema that it knows.
"""

import os
import sqlite3
import sys

sys.path.insert(0, os.getcwd())

import database  # noqa: E402
import schema  # noqa: E402
import visits  # noqa: E402


def main(what):
    db = database.connect(schema.LOCK_TIMEOUT)
    for name, step in visits.MIGRATION[what]:
        print(f"{what}: {name}", flush=True)
        try:
            step(db)
        except sqlite3.OperationalError as error:
            raise SystemExit(f"{name}: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1])
