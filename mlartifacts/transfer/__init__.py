"""Many files, or a large one, from one store to another: planned, verified, restartable.

:mod:`.trees` says what is at either end, :mod:`.plan` what is to be moved, :mod:`.engine` moves
it, and :mod:`.operations` is what users call.
"""
