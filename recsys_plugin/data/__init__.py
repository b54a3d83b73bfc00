"""From a shop's tables, or a public data set, to validated canonical tables.

Read in this order: :mod:`~recsys_plugin.data.schema` says what the tables hold; :mod:`~recsys_plugin.data.files` reads
them; :mod:`~recsys_plugin.data.tables` refuses what is malformed; :mod:`~recsys_plugin.data.store` keeps them;
:mod:`~recsys_plugin.data.prepare` does the four in turn; :mod:`~recsys_plugin.data.adapters` brings public data sets
into the same shape. Nothing is imported here, so that asking for one module does not load the others.
"""

__all__: list[str] = []
