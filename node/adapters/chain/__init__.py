"""The chain: JSON-RPC, the escrow's state, and transactions.  web3 is imported only to transact."""
