"""One file a trainable system, behind the contract in system.py."""
