"""Run by alembic: migrates on the connection, and in the transaction, that `database.migrating` hands over."""

from alembic import context

from forebear_serve.database.migrating import VERSION_TABLE
from forebear_serve.database.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
