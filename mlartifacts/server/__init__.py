"""An artifact server that speaks MLflow's REST API, on every store.

``mlartifacts serve s3://bucket/path`` runs one; :func:`mlartifacts.server.app.create_app` gives it
to another server of ASGI applications.
"""
