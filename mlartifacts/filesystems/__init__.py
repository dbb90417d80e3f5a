"""Filesystems of logical URIs, whose bytes lie in a store's."""
