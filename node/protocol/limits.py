"""Every limit of the protocol, in one place (protocol.md, "Limits")."""

from typing import Final

FRAME_BYTES_MAX: Final = 64 * 1024
"""A frame's payload; a longer length prefix ends the connection before anything is allocated."""
DATA_BYTES_MAX: Final = 16 * 1024
"""Payload of one data frame (request data, chunk, file data)."""
DEPTH_MAX: Final = 16
ARRAY_MAX: Final = 1024

REQUEST_BYTES_MAX: Final = 2 * 1024 * 1024
"""A whole request body, over all its data frames."""
FILE_BYTES_MAX: Final = 64 * 1024 * 1024
"""A file that a client fetches by hash (manifest, tokenizer, template)."""
JOB_WINDOW_BYTES: Final = 256 * 1024
"""Credit that each side of a job starts with: bytes of frames not yet consumed by the reader."""
JOBS_PER_SESSION_MAX: Final = 512
"""A gateway with a thousand streams has 500 with each of two workers."""

SPLITS_MAX: Final = 8
SPLITS_BPS_MAX: Final = 5_000
STOPS_MAX: Final = 16
STOP_BYTES_MAX: Final = 256
LOGPROBS_MAX: Final = 20
PIECE_CHARS_MAX: Final = 16
CHAT_MESSAGES_MAX: Final = 1024
TOOLS_MAX: Final = 128
TOOL_CALLS_MAX: Final = 128
INPUTS_MAX: Final = 64
DIMENSIONS_MAX: Final = 6144
"""So that the vectors of a job fit `OUTPUT_BYTES_MAX`, as base64."""
SCOPE_BYTES_MAX: Final = 32
FORMAT_BYTES_MAX: Final = 32 * 1024
FORMAT_SCHEMAS_MAX: Final = 512
FORMAT_DEPTH_MAX: Final = 24
FORMAT_BRANCHES_MAX: Final = 64
FORMAT_VALUES_MAX: Final = 1024
FORMAT_COUNT_MAX: Final = 65_536
FORMAT_PATTERNS_MAX: Final = 16
FORMAT_PATTERN_CHARS_MAX: Final = 256
FORMAT_MULTIPLE_MAX: Final = 1000
"""With the others: tests/adapters/test_grammar.py measures what they let through."""
ANNOUNCEMENTS_PER_EXCHANGE: Final = 64
RISES_MAX: Final = 512
OFFER_LIFE_S: Final = 10.0
"""How long an offer binds, counted by the receiver from its arrival."""

PING_EVERY_S: Final = 1.5
PONG_WITHIN_S: Final = 3.0
"""Together below 5 s: the time in which a frozen peer is noticed while there are jobs with it."""
PING_IDLE_EVERY_S: Final = 30.0
"""Without jobs: 24 sessions at 1.5 s would cost either side 6 kB/s and half a percent of a core."""

SEGMENTS_MAX: Final = 16
"""Segments of one job, and auctions for them."""
BIDS_MAX: Final = 64
"""Signed terms that a transcript keeps per auction."""
REASON_BYTES_MAX: Final = 500
RECORD_BYTES_MAX: Final = 32 * 1024
OUTPUT_BYTES_MAX: Final = 4 * 1024 * 1024
"""Accepted output of a whole job, as ids or as text."""
TRANSCRIPT_BYTES_MAX: Final = 2 * 1024 * 1024
DISCLOSURE_BYTES_MAX: Final = 48 * 1024 * 1024
