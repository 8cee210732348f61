"""The coordinator on the broker: election, commands, proofs, and one process's part in a group."""
