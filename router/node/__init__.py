"""The running node: it builds the stages, starts and stops them, reloads, and takes orders on a local socket.

Only `commands` and `cli` import it. A stage never does.
"""
