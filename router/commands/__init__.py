"""The work of those commands that need no running node: one file each, without options and without printing.

`cli` parses and prints. What a stage of the node needs does not belong here.
"""
