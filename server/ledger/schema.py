"""The ledger's tables, and how the file of an older version is brought up to date."""

import sqlite3

from autoresearch_mcp.server.errors import LabError

SCHEMA_VERSION = 24

_SCHEMA = """
CREATE TABLE proposals (
    "commit" TEXT PRIMARY KEY, base TEXT NOT NULL, fingerprint TEXT NOT NULL UNIQUE, created_at REAL NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE TABLE aliases (  -- commits with the code of a proposal, on another parent: its scores are theirs
    "commit" TEXT PRIMARY KEY, proposal TEXT NOT NULL
) STRICT;
CREATE TABLE experiments (  -- not ended yet
    id TEXT PRIMARY KEY, "commit" TEXT NOT NULL, state TEXT NOT NULL, reserved_s REAL NOT NULL, created_at REAL NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE TABLE ended (  -- thin, for good
    id TEXT PRIMARY KEY, "commit" TEXT NOT NULL, conditions TEXT NOT NULL, device TEXT NOT NULL, state TEXT NOT NULL, val_bpb REAL,
    started INTEGER NOT NULL, finished_at REAL NOT NULL, seed INTEGER NOT NULL, author TEXT NOT NULL, hypothesis TEXT NOT NULL,
    failure TEXT, reported_bpb REAL
) STRICT;
CREATE INDEX ended_by_commit ON ended ("commit");
CREATE INDEX ended_by_time ON ended (finished_at);
CREATE TABLE promotions (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, done INTEGER NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE TABLE outbox (  -- acknowledged, not yet read back from the lake
    seq INTEGER PRIMARY KEY, tbl TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, record TEXT NOT NULL, UNIQUE (tbl, id)
) STRICT;
CREATE TABLE answers (  -- of calls with an idempotency key
    key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL, created_at REAL NOT NULL
) STRICT;
CREATE TABLE totals (name TEXT PRIMARY KEY, value REAL NOT NULL) STRICT;
INSERT INTO totals VALUES ('spent_s', 0);
"""
_UPGRADES = {  # from the version before
    2: """
CREATE TABLE evidence (  -- of finished experiments, for the gate and the lab's owner: in no tool, no resource and no lake
    experiment TEXT PRIMARY KEY, test_bpb REAL, sandbox TEXT
) STRICT
""",
    3: """
ALTER TABLE evidence ADD COLUMN weights TEXT;
ALTER TABLE ended ADD COLUMN reproduces TEXT NOT NULL DEFAULT ''
""",
    4: """
CREATE TABLE bills (  -- what each ended attempt on a rented device cost: elapsed times rate at first, settled by the provider's number
    experiment TEXT NOT NULL, attempt INTEGER NOT NULL, author TEXT NOT NULL, at REAL NOT NULL, usd REAL NOT NULL, settled INTEGER NOT NULL,
    PRIMARY KEY (experiment, attempt)
) STRICT
""",
    5: """
CREATE TABLE launches (  -- the settings under which an experiment was queued, until it ends; a table of its own, as older programs go on queueing
    experiment TEXT PRIMARY KEY, settings TEXT NOT NULL
) STRICT;
ALTER TABLE outbox ADD COLUMN posted_at REAL;
UPDATE outbox SET posted_at = CAST(strftime('%s', 'now') AS REAL)
""",
    6: """
CREATE TABLE curves (  -- of finished experiments: mean losses in 5 % windows of the budget, as JSON
    experiment TEXT PRIMARY KEY, settings TEXT NOT NULL, windows TEXT NOT NULL
) STRICT;
CREATE INDEX curves_by_settings ON curves (settings)
""",
    7: """
ALTER TABLE ended ADD COLUMN created_at REAL;
ALTER TABLE ended ADD COLUMN started_at REAL;
ALTER TABLE ended ADD COLUMN circumstances TEXT NOT NULL DEFAULT '{}'
""",
    8: """
CREATE TABLE canonicals (  -- the hash that a proposal shares with its near-copies; a table of its own, as older programs go on proposing
    "commit" TEXT PRIMARY KEY, canonical TEXT NOT NULL
) STRICT;
CREATE INDEX canonicals_by_hash ON canonicals (canonical)
""",
    9: """
CREATE TABLE starts (  -- every attempt in the order of its start, for good; beside: a JSON array of what ran then, each [experiment, author]
    seq INTEGER PRIMARY KEY, experiment TEXT NOT NULL, attempt INTEGER NOT NULL, "commit" TEXT NOT NULL, author TEXT NOT NULL,
    by_lab INTEGER NOT NULL, settings TEXT NOT NULL, at REAL NOT NULL, beside TEXT NOT NULL
) STRICT;
CREATE INDEX starts_by_experiment ON starts (experiment);
CREATE INDEX starts_by_lab ON starts ("commit", settings) WHERE by_lab;
CREATE INDEX experiments_in_turn ON experiments (state, "commit", created_at);
ALTER TABLE ended ADD COLUMN by_lab INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ended ADD COLUMN candidacy TEXT NOT NULL DEFAULT '';
CREATE INDEX ended_by_candidacy ON ended (candidacy) WHERE candidacy != '';
CREATE TABLE candidacies (  -- launches until decided
    id TEXT PRIMARY KEY, state TEXT NOT NULL, created_at REAL NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE TABLE lab_launches (  -- open experiments that the lab queued itself: for a candidacy, or '' for replicates of the champion
    experiment TEXT PRIMARY KEY, candidacy TEXT NOT NULL
) STRICT
""",
    10: """
CREATE TABLE decisions (  -- the gate's last word on a commit against a champion; near-copies share a ticket
    champion TEXT NOT NULL, conditions TEXT NOT NULL, "commit" TEXT NOT NULL, ticket TEXT NOT NULL, rules TEXT NOT NULL, level REAL NOT NULL,
    final INTEGER NOT NULL, verdict TEXT NOT NULL, decided_at REAL NOT NULL, PRIMARY KEY (champion, conditions, "commit")
) STRICT;
CREATE INDEX evidence_by_weights ON evidence (weights)
""",
    11: """
ALTER TABLE evidence ADD COLUMN answers TEXT;
ALTER TABLE evidence ADD COLUMN finding TEXT NOT NULL DEFAULT '';
CREATE INDEX evidence_by_answers ON evidence (answers)
""",
    12: """
CREATE TABLE tokens (  -- of those who call over the network; the secret itself is kept nowhere
    hash TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL, revoked_at REAL
) STRICT;
CREATE UNIQUE INDEX tokens_by_name ON tokens (name) WHERE revoked_at IS NULL;
CREATE TABLE changes (  -- every acknowledged change: who, in which role, how, from where
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, who TEXT NOT NULL, role TEXT NOT NULL, way TEXT NOT NULL, origin TEXT NOT NULL,
    action TEXT NOT NULL, subject TEXT NOT NULL
) STRICT
""",
    13: """
CREATE TABLE measurements (  -- proposals that are trained and shown, and never candidates
    "commit" TEXT PRIMARY KEY
) STRICT
""",
    14: """
CREATE INDEX proposals_by_size ON proposals (json_extract(record, '$.added'))  -- the status asks for the large ones all the time
""",
    15: """
ALTER TABLE experiments ADD COLUMN author TEXT GENERATED ALWAYS AS (json_extract(record, '$.author')) VIRTUAL;
CREATE INDEX experiments_by_author ON experiments (state, author, "commit", created_at, id);
CREATE TABLE news (  -- what happened that callers should hear of, once; recipient: whom it concerns, or '' for everybody but its author
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, author TEXT NOT NULL, recipient TEXT NOT NULL, subject TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE TABLE heard (  -- the last news that each caller was told
    caller TEXT PRIMARY KEY, seq INTEGER NOT NULL
) STRICT
""",
    16: """
CREATE TABLE remarks (  -- on proposals, for good: text corrected (holds the one of before), note, withdrawn, restored
    seq INTEGER PRIMARY KEY, "commit" TEXT NOT NULL, at REAL NOT NULL, author TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
CREATE INDEX remarks_by_commit ON remarks ("commit")
""",
    17: """
CREATE TABLE claims (  -- who works on which idea, until when; ended ones stay
    seq INTEGER PRIMARY KEY, idea TEXT NOT NULL, holder TEXT NOT NULL, text TEXT NOT NULL, minutes REAL NOT NULL, renewed_at REAL NOT NULL,
    until REAL NOT NULL, ended_at REAL
) STRICT;
CREATE UNIQUE INDEX claims_in_force ON claims (idea) WHERE ended_at IS NULL;
CREATE INDEX claims_by_idea ON claims (idea);
CREATE TABLE idea_commits (  -- the proposals that try an idea
    "commit" TEXT NOT NULL, idea TEXT NOT NULL, PRIMARY KEY ("commit", idea)
) STRICT;
CREATE INDEX idea_commits_by_idea ON idea_commits (idea);
CREATE TABLE combinations (  -- pairs of proposals whose combination the lab suggested, each once
    pair TEXT PRIMARY KEY
) STRICT
""",
    18: """
CREATE TABLE sweeps (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, created_at REAL NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE TABLE trials (  -- of sweeps, each written together with its experiment
    sweep TEXT NOT NULL, number INTEGER NOT NULL, experiment TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (sweep, number)
) STRICT;
CREATE INDEX trials_by_experiment ON trials (experiment)
""",
    19: """
CREATE TABLE alerts (  -- what people were told by webhook; the row without a key says since when
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, text TEXT NOT NULL, at REAL NOT NULL
) STRICT;
CREATE TABLE deliveries (  -- of alerts, which are still to be made; target: names a webhook without its address
    alert TEXT NOT NULL, target TEXT NOT NULL, tries INTEGER NOT NULL, due_at REAL NOT NULL, PRIMARY KEY (alert, target)
) STRICT
""",
    20: """
CREATE TABLE traces (  -- the trace contexts of traced calls, by what they launched
    id TEXT PRIMARY KEY, context TEXT NOT NULL
) STRICT
""",
    21: """
CREATE TABLE ideas (  -- what the status tells of them; those of before that were flushed come as the backlog is read
    id TEXT PRIMARY KEY, created_at REAL NOT NULL, superseded INTEGER NOT NULL
) STRICT;
CREATE TABLE idea_tags (
    tag TEXT NOT NULL, idea TEXT NOT NULL, PRIMARY KEY (tag, idea)
) STRICT;
CREATE INDEX idea_tags_by_idea ON idea_tags (idea);
INSERT INTO ideas SELECT id, json_extract(record, '$.created_at'), 0 FROM outbox
    WHERE tbl = 'memories' AND json_extract(record, '$.kind') = 'idea';
INSERT INTO idea_tags SELECT DISTINCT tags.value, ideas.id FROM ideas JOIN outbox USING (id), json_each(record, '$.tags') AS tags
""",
    22: """
CREATE TABLE ended_states (  -- sums over all that ended, up to the row that totals names: see tallying.py
    state TEXT PRIMARY KEY, n INTEGER NOT NULL
) STRICT;
CREATE TABLE ended_of_agents (
    author TEXT NOT NULL, by_lab INTEGER NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (author, by_lab)
) STRICT;
CREATE TABLE newest_conditions (
    device TEXT PRIMARY KEY, conditions TEXT NOT NULL
) STRICT;
CREATE TABLE since_promotion (
    at REAL NOT NULL, trainings INTEGER NOT NULL, commits INTEGER NOT NULL, seconds REAL NOT NULL
) STRICT;
CREATE TABLE standings (  -- what counts of a commit's replicates; rules: under which rules it does, as a sum of bits
    conditions TEXT NOT NULL, "commit" TEXT NOT NULL, rules INTEGER NOT NULL, n INTEGER NOT NULL, mean REAL NOT NULL, squares REAL NOT NULL,
    steps INTEGER, reported INTEGER NOT NULL
) STRICT;
CREATE INDEX standings_by_commit ON standings (conditions, "commit");
CREATE INDEX standings_by_mean ON standings (conditions, mean, rules, n, "commit");
CREATE INDEX standings_by_n ON standings (conditions, n, squares, rules, "commit");
DROP INDEX experiments_by_author;
CREATE INDEX experiments_by_author ON experiments (state, author, created_at, id, "commit", reserved_s);
CREATE INDEX starts_by_settings ON starts (settings);
CREATE INDEX decisions_by_ticket ON decisions (champion, conditions, ticket, level);
INSERT INTO totals VALUES ('tallied_to', 0), ('corrections', 0)
""",
    23: """
ALTER TABLE combinations ADD COLUMN idea TEXT /* the suggestion; NULL for one of before */;
CREATE INDEX combinations_by_idea ON combinations (idea)
""",
    24: """
CREATE INDEX ended_by_author ON ended (author, by_lab, finished_at, id, "commit")
""",
}


def is_current(db: sqlite3.Connection) -> bool:
    """Return whether the file has today's tables; a new or older one needs `upgrade`.

    Raises:
        LabError: `newer_lab`.
    """
    version = _version(db)
    if version > SCHEMA_VERSION:
        raise LabError(
            f"The ledger of this lab was written by a newer autoresearch-mcp (version {version}, this one knows {SCHEMA_VERSION}). "
            "Upgrade with `pip install -U autoresearch-mcp`; nothing was changed.",
            "newer_lab",
        )
    return version == SCHEMA_VERSION


def upgrade(db: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an older version up to date. Call it alone among writers; it does nothing the second time."""
    version = _version(db)
    for statement in _SCHEMA.split(";\n") if version == 0 else []:
        db.execute(statement)
    for number in range(max(version, 1) + 1, SCHEMA_VERSION + 1):
        for statement in _UPGRADES[number].split(";\n"):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
