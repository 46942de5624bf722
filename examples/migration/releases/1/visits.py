"""Release 1: a visit has a column `who`."""


def add(db, who):
    db.execute("INSERT INTO visits (who) VALUES (?)", (who,))


def latest(db):
    return [who for (who,) in db.execute("SELECT who FROM visits ORDER BY id DESC LIMIT 20")]


def create(db):
    # Not NOT NULL: a column can only be got rid of if a release may leave it empty.
    db.execute("CREATE TABLE IF NOT EXISTS visits (id INTEGER PRIMARY KEY, who TEXT)")


MIGRATION = {"expand": [("make the table", create)], "contract": []}
