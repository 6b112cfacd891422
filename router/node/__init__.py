"""The running node: its parts built, started and stopped, its models, and what a person may order of it.

- `node`: `Node(settings)`, a list of roles; `view`: what can be seen of it; `reloading`, `sweeper`: two of its tasks.
- `serving_models`: which model serves and which shadows, swapped without a restart; `model_store`: the copies on disk.
- `orders`: what a person may order; `api`: orders and state over HTTP; `local_socket`: what serves it.
- `client`: how a command asks the node that runs. It and `orders` are all that most commands import.

Only `commands` and `cli` import this room. No stage does, and no work of a stage belongs here.
"""
