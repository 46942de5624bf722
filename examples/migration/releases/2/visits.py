"""Release 2: the column `who` is called `visitor` from now on.

To rename it at once would break release 1, which goes on until this one is ready, and while it drains. So it is expanded
first, so that both releases are right whoever writes; and contracted when no process of release 1 is left.
"""

import schema


def add(db, who):
    db.execute("INSERT INTO visits (visitor) VALUES (?)", (who,))


def latest(db):
    return [who for (who,) in db.execute("SELECT visitor FROM visits ORDER BY id DESC LIMIT 20")]


def add_column(db):
    with schema.Locked(db):
        if "visitor" not in schema.columns(db):
            db.execute("ALTER TABLE visits ADD COLUMN visitor TEXT")  # touches no row
        if "who" not in schema.columns(db):
            return  # contracted already
        # What the one release writes the other can read.
        db.execute(
            "CREATE TRIGGER IF NOT EXISTS visits_by_1 AFTER INSERT ON visits WHEN NEW.visitor IS NULL "
            "BEGIN UPDATE visits SET visitor = NEW.who WHERE id = NEW.id; END"
        )
        db.execute(
            "CREATE TRIGGER IF NOT EXISTS visits_by_2 AFTER INSERT ON visits WHEN NEW.who IS NULL "
            "BEGIN UPDATE visits SET who = NEW.visitor WHERE id = NEW.id; END"
        )


def fill_column(db):
    if "who" in schema.columns(db):
        schema.in_batches(db, "UPDATE visits SET visitor = who WHERE visitor IS NULL AND id BETWEEN ? AND ?")


def drop_column(db):
    with schema.Locked(db):
        db.execute("DROP TRIGGER IF EXISTS visits_by_1")
        db.execute("DROP TRIGGER IF EXISTS visits_by_2")
        if "who" in schema.columns(db):
            db.execute("ALTER TABLE visits DROP COLUMN who")  # SQLite 3.35


MIGRATION = {
    "expand": [("add the column visitor", add_column), ("fill it", fill_column)],
    "contract": [("drop the column who", drop_column)],
}
