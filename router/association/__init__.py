"""Associations, both ways (PS3.7, PS3.8): the server that peers connect to, and associations that this node opens.

In come bytes of strangers, out go messages, each bounded and within its time. This room knows no spool, no rules and
no pixels. What becomes of an instance is the `StoreHandler`'s, and what a further SOP class means is its `Service`'s.
"""
