"""Alembic's entry: the connection is handed over by `engine.migrate`, inside its transaction."""

from alembic import context

from router.spool.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
