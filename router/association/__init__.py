"""Associations, both ways (PS3.7, PS3.8): the server that peers connect to, and associations that this node opens.

This room turns bytes from strangers into messages. Each message has a size limit and a time limit. The room knows no
spool, no rules and no pixels. The `StoreHandler` decides what becomes of an instance. The `Service` of a further SOP
class decides what its messages mean.
"""
