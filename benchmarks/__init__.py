"""Measurements against the raw drivers, side by side in one run; `make bench` prints them."""
