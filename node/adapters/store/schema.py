"""Tables, and how a file of an earlier version becomes one of this.

Amounts are micro, in 64-bit integers (`MICRO_MAX` fits).  Statements are kept as their encoded
bytes with the signature, which is what is sent again; columns beside them are for searching.
"""

import sqlite3
from typing import Final

from node.errors import ConfigError

APPLICATION_ID: Final = 0x67707521
"""In the file's header: "gpu!"."""

# Rows of `meta` that more than one module reads.
HALT_KEY: Final = "payer_halted"
"""Why this payer signs nothing any more."""

V1: Final = """
CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The payer's side.

CREATE TABLE payer_tabs (
  id BLOB PRIMARY KEY,
  payer BLOB NOT NULL,
  payee BLOB NOT NULL,
  model BLOB NOT NULL,
  splits BLOB NOT NULL,
  worker BLOB NOT NULL,
  cumulative INTEGER NOT NULL DEFAULT 0,
  redeemed INTEGER NOT NULL DEFAULT 0,
  size INTEGER NOT NULL DEFAULT 0,
  peaks BLOB NOT NULL DEFAULT x'',
  voucher BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE reservations (
  job BLOB NOT NULL,
  attempt INTEGER NOT NULL,
  tab BLOB NOT NULL REFERENCES payer_tabs (id),
  cap INTEGER NOT NULL,
  hold INTEGER NOT NULL,
  paid INTEGER NOT NULL,
  due INTEGER NOT NULL,
  accepted INTEGER NOT NULL,
  receipt BLOB,
  receipt_due INTEGER NOT NULL,
  closed INTEGER NOT NULL,
  -- With the voucher that commits to the receipt:
  voucher BLOB,
  leaf INTEGER,
  leaves INTEGER,
  path BLOB,
  PRIMARY KEY (job, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX reservations_open ON reservations (job)
  WHERE closed = 0 OR receipt_due = 1 OR due > paid;

-- Frames as they were sent.  One cumulative, one voucher: the key that makes a second impossible.
CREATE TABLE vouchers_given (
  tab BLOB NOT NULL REFERENCES payer_tabs (id),
  cumulative INTEGER NOT NULL,
  frame BLOB NOT NULL,
  PRIMARY KEY (tab, cumulative)
) STRICT, WITHOUT ROWID;

-- The receipts tree's leaves, for proofs against a later root.
CREATE TABLE leaves (
  tab BLOB NOT NULL,
  leaf INTEGER NOT NULL,
  receipt BLOB NOT NULL,
  PRIMARY KEY (tab, leaf)
) STRICT, WITHOUT ROWID;

CREATE TABLE locks_given (
  payee BLOB NOT NULL,
  nonce INTEGER NOT NULL,
  lock BLOB NOT NULL,
  ended INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (payee, nonce)
) STRICT, WITHOUT ROWID;

CREATE TABLE releases_got (
  payee BLOB PRIMARY KEY,
  nonce INTEGER NOT NULL,
  release BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The payee's and the worker's side.

CREATE TABLE payee_tabs (
  id BLOB PRIMARY KEY,
  payer BLOB NOT NULL,
  payee BLOB NOT NULL,
  model BLOB NOT NULL,
  splits BLOB NOT NULL,
  client BLOB NOT NULL,
  cumulative INTEGER NOT NULL,
  redeemed INTEGER NOT NULL DEFAULT 0,
  best INTEGER NOT NULL,
  size INTEGER NOT NULL,
  peaks BLOB NOT NULL,
  held BLOB,
  best_voucher BLOB,
  owed_since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE segments (
  digest BLOB PRIMARY KEY,
  client BLOB NOT NULL,
  job BLOB NOT NULL,
  attempt INTEGER NOT NULL,
  payer BLOB NOT NULL,
  tab BLOB NOT NULL,
  cap INTEGER NOT NULL,
  begun_ms INTEGER NOT NULL,
  award BLOB NOT NULL,
  terms BLOB NOT NULL,
  acceptance BLOB,
  progress BLOB,
  receipt BLOB,
  receipt_digest BLOB,
  receipt_taken INTEGER NOT NULL DEFAULT 0,
  cutoff BLOB,
  tokens_out INTEGER NOT NULL DEFAULT 0,
  earned INTEGER NOT NULL DEFAULT 0,
  paid INTEGER NOT NULL DEFAULT 0,
  UNIQUE (client, job, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX segments_begun ON segments (begun_ms);
CREATE INDEX segments_receipt ON segments (receipt_digest) WHERE receipt_digest IS NOT NULL;
CREATE INDEX segments_unsettled ON segments (begun_ms)
  WHERE earned > paid OR (receipt_digest IS NOT NULL AND receipt_taken = 0 AND earned > 0);

CREATE TABLE advances (
  client BLOB NOT NULL,
  job BLOB NOT NULL,
  attempt INTEGER NOT NULL,
  paid INTEGER NOT NULL,
  PRIMARY KEY (client, job, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE locks_got (
  payer BLOB PRIMARY KEY,
  nonce INTEGER NOT NULL,
  lock BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The client's side.

CREATE TABLE jobs (
  job BLOB PRIMARY KEY,
  model BLOB NOT NULL,
  begun_ms INTEGER NOT NULL,
  ended_ms INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL,
  auction BLOB NOT NULL DEFAULT x'',
  summary BLOB NOT NULL DEFAULT x'',
  transcript BLOB NOT NULL DEFAULT x''
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_begun ON jobs (begun_ms);

CREATE TABLE bought (
  digest BLOB PRIMARY KEY,
  job BLOB NOT NULL,
  attempt INTEGER NOT NULL,
  award BLOB NOT NULL,
  terms BLOB NOT NULL,
  acceptance BLOB,
  progress BLOB,
  receipt BLOB,
  cutoff BLOB,
  UNIQUE (job, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE measurements (
  worker BLOB NOT NULL,
  model BLOB NOT NULL,
  count INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  first_token_s REAL NOT NULL,
  rate_tps REAL NOT NULL,
  updated_ms INTEGER NOT NULL,
  PRIMARY KEY (worker, model)
) STRICT, WITHOUT ROWID;
CREATE INDEX measurements_updated ON measurements (updated_ms);

-- The chain.

CREATE TABLE transactions (
  sender BLOB NOT NULL,
  nonce INTEGER NOT NULL,
  kind TEXT NOT NULL,
  note TEXT NOT NULL,
  target BLOB NOT NULL,
  value_wei TEXT NOT NULL,
  data BLOB NOT NULL,
  gas INTEGER NOT NULL,
  created_ms INTEGER NOT NULL,
  state TEXT NOT NULL,
  block INTEGER NOT NULL DEFAULT 0,
  gas_used INTEGER NOT NULL DEFAULT 0,
  fee_wei TEXT NOT NULL DEFAULT '0',
  closed_ms INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (sender, nonce)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX transactions_one_in_flight ON transactions (sender) WHERE state = 'sent';

CREATE TABLE attempts (
  sender BLOB NOT NULL,
  nonce INTEGER NOT NULL,
  number INTEGER NOT NULL,
  hash BLOB NOT NULL,
  raw BLOB NOT NULL,
  fee_max_wei TEXT NOT NULL,
  tip_wei TEXT NOT NULL,
  sent_ms INTEGER NOT NULL,
  PRIMARY KEY (sender, nonce, number),
  FOREIGN KEY (sender, nonce) REFERENCES transactions (sender, nonce)
) STRICT, WITHOUT ROWID;
"""

V2: Final = """
-- The gateway's API keys.  The key itself is in none of our files.

CREATE TABLE api_keys (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  hash BLOB NOT NULL UNIQUE,
  spend_max INTEGER,
  spent INTEGER NOT NULL DEFAULT 0,
  created_ms INTEGER NOT NULL,
  revoked_ms INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS: Final[tuple[str, ...]] = (V1, V2)
"""Each takes a file one version on; `PRAGMA user_version` counts those that were run."""
VERSION: Final = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a file to this version, each step in a transaction of its own.

    Raises:
        ConfigError: A later version of this program wrote it, or another program did.
    """
    version = check_version(connection)
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{statements}\n"
            f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {number};\nCOMMIT;"
        )


def check_version(connection: sqlite3.Connection) -> int:
    """The file's version.

    Raises:
        ConfigError: Not a file that this version can use.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    identity: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if version > VERSION:
        raise ConfigError(
            f"the store is of version {version}, newer than this program",
            hint="install the newer program again, or use another home",
        )
    if version and identity != APPLICATION_ID:
        raise ConfigError("the store is not a file of this program")
    return version
