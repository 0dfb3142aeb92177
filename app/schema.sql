-- Studies hold the current state; events are an append-only log of all steps.
CREATE TABLE IF NOT EXISTS studies (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'draft', 'signed', 'discarded')),
    version INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    created TEXT NOT NULL,
    changed TEXT NOT NULL,
    facts TEXT NOT NULL,
    warnings TEXT NOT NULL,
    image TEXT NOT NULL,
    prior TEXT,
    document TEXT NOT NULL,
    words TEXT NOT NULL, -- search text, lower case
    lateral TEXT,
    further TEXT, -- images beyond frontal, lateral and prior
    assigned TEXT, -- user who is to review it
    findings TEXT, -- positive findings of the current text
    study_key TEXT, -- HMAC of the study, see app/grouping.py
    patient_key TEXT,
    moment TEXT
);
CREATE INDEX IF NOT EXISTS studies_of_owner ON studies (owner, changed DESC);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    study TEXT NOT NULL REFERENCES studies (id),
    version INTEGER NOT NULL,
    at TEXT NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    sentence TEXT,
    before TEXT,
    after TEXT,
    undoes INTEGER REFERENCES events (id),
    model TEXT,
    seconds REAL NOT NULL,
    step TEXT -- id that the page gave the step: sent twice, it is applied once
);
CREATE INDEX IF NOT EXISTS events_of_study ON events (study, id);
CREATE TRIGGER IF NOT EXISTS events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE (ABORT, 'events are never changed'); END;
CREATE TRIGGER IF NOT EXISTS events_remain BEFORE DELETE ON events BEGIN SELECT RAISE (ABORT, 'events are never deleted'); END;
CREATE TABLE IF NOT EXISTS signed (
    study TEXT NOT NULL REFERENCES studies (id),
    version INTEGER NOT NULL,
    at TEXT NOT NULL,
    who TEXT NOT NULL,
    text TEXT NOT NULL,
    document TEXT NOT NULL,
    model TEXT,
    seconds REAL NOT NULL,
    PRIMARY KEY (study, version)
);
CREATE TRIGGER IF NOT EXISTS signed_stay BEFORE UPDATE ON signed BEGIN SELECT RAISE (ABORT, 'signed reports are never changed'); END;
CREATE TRIGGER IF NOT EXISTS signed_remain BEFORE DELETE ON signed BEGIN SELECT RAISE (ABORT, 'signed reports are never deleted'); END;
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY,
    study TEXT NOT NULL REFERENCES studies (id),
    owner TEXT NOT NULL,
    batch TEXT,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'stopped', 'failed')),
    text TEXT NOT NULL DEFAULT '',
    model TEXT,
    report TEXT,
    error TEXT,
    inputs TEXT -- besides the image: options while waiting, inputs of the draft when done
);
CREATE INDEX IF NOT EXISTS jobs_of_study ON jobs (study, id);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state) WHERE state IN ('queued', 'running');
CREATE TABLE IF NOT EXISTS turns (owner TEXT PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, owner TEXT NOT NULL, created TEXT NOT NULL, total INTEGER NOT NULL, read INTEGER NOT NULL, source TEXT);
CREATE TABLE IF NOT EXISTS refused (batch TEXT NOT NULL REFERENCES batches (id), number INTEGER NOT NULL, sha256 TEXT, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batch_files ( -- accepted files
    batch TEXT NOT NULL REFERENCES batches (id),
    number INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'ended')),
    path TEXT, -- while it waits; NULL in a zip file
    name TEXT,
    folder TEXT, -- group of a picture by its folder
    waits_for TEXT, -- key of the study whose frontal image is to be read first
    PRIMARY KEY (batch, number)
);
CREATE INDEX IF NOT EXISTS batch_files_waiting ON batch_files (batch, number) WHERE state = 'waiting';
CREATE TABLE IF NOT EXISTS settings (owner TEXT PRIMARY KEY, value TEXT NOT NULL);
