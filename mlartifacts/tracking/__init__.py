"""Logical URIs made physical: where a run's or a model's artifacts lie, asked of MLflow's store.

========================  ==========================================================
tracking URI              who is asked
========================  ==========================================================
``http://``, ``https://`` the server, by MLflow's REST API (:mod:`.rest`)
a path, ``file:``         the meta files of an ``mlruns`` folder (:mod:`.files`)
anything else             the mlflow package, if it is installed (:mod:`.package`)
========================  ==========================================================

:mod:`.resolver` chooses among them and remembers what cannot change.
"""
