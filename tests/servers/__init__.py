"""Real servers for the tests: one module each, and every one has the same shape.

``with moto.serve(directory) as server`` starts a server on a free loopback port, waits until it
answers in its own protocol, and stops it. A server that cannot start raises
:class:`~tests.servers.process.ServerUnavailable`; whether that is a failure or a skip is decided
in one place, :func:`tests.servers.fixtures.started`.

What every server object has:

``url``
    Where it listens (``http://127.0.0.1:1234``, ``sftp://127.0.0.1:1234``, ...).
``env``
    The environment that a user of MLflow would have for it: ``monkeypatch.setenv`` each.
``new_root()``
    The URI of a fresh empty bucket, container or directory, so that no two tests meet.
"""
