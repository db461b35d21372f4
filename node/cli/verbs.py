"""The verbs, each with where it is and one line about it.  Imports nothing (20 ms matter here)."""

VERBS = {
    "init": ("node.cli.init:init", "Make a home: key, keystore and config"),
    "serve": ("node.cli.serve:serve", "Run a worker: sell what this machine's models generate"),
    "submit": ("node.cli.submit:submit", "Buy one answer: auction, stream, pay, receipt"),
    "gateway": ("node.cli.gateway:gateway", "Let OpenAI's clients buy on the market"),
    "keys": ("node.cli.gateway:keys", "Make, list and revoke the gateway's API keys"),
    "wallet": ("node.cli.wallet:wallet", "Deposit, withdraw, and lock funds in the escrow"),
    "market": ("node.cli.market:market", "Show the offers that are live now"),
    "receipts": ("node.cli.receipts:receipts", "List, show and verify receipts"),
    "status": ("node.cli.status:status", "Show what this home's node is doing"),
    "earnings": ("node.cli.status:earnings", "Show what was earned, per model and hour"),
    "redeem": ("node.cli.redeem:redeem", "Redeem earned vouchers on chain now"),
    "doctor": ("node.cli.doctor:doctor", "Check this machine and home, with numbered fixes"),
    "version": ("node.cli.version:version", "Show the version"),
}
