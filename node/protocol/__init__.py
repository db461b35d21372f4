"""The protocol, without input or output: messages, signatures and the state machines.

Nothing here reads a clock, draws a random number, opens a socket or a file, or logs.
"""
