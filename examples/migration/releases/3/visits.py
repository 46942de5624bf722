"""Release 3 was not thought through: every row is written in one transaction, and nobody else could write meanwhile.
Its migration is interrupted and undone, and its upgrade fails.
"""

import hashlib

import schema


def add(db, who):
    db.execute("INSERT INTO visits (visitor, seal) VALUES (?, ?)", (who, seal(who)))


def latest(db):
    return [who for (who,) in db.execute("SELECT visitor FROM visits WHERE seal IS NOT NULL ORDER BY id DESC LIMIT 20")]


def seal(who):
    return hashlib.pbkdf2_hmac("sha256", who.encode(), b"salt", 1000).hex()  # takes its time


def add_and_fill(db):
    db.create_function("seal", 1, seal)
    with schema.Locked(db):
        db.execute("ALTER TABLE visits ADD COLUMN seal TEXT")
        db.execute("UPDATE visits SET seal = seal(visitor)")


MIGRATION = {"expand": [("add the column seal", add_and_fill)], "contract": []}
