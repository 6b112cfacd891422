"""The running node: builds, starts and stops its parts, swaps its models, and carries out the orders of people.

- `node`: `Node(settings)`, a list of roles; `view`: what can be seen of it; `reloading`, `sweeper`: two of its tasks.
- `serving_models`: which model serves and which shadows, swapped without a restart; `model_store`: the copies on disk.
- `orders`: what a person may order; `api`: orders and state over HTTP; `local_socket`: what serves it.
- `client`: how a command asks the running node. Most commands import only this module and `orders`.

Only `commands` and `cli` import this room. The work of the stages is not done here.
"""
