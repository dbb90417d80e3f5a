"""Which ways of ending a write publish it, and which leave what was there."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import threading

import fsspec.core
import pytest

import mlartifacts
from mlartifacts.writing import WholeText, WholeWrite, landing

OLD = b"old"


class Shelf:
    """Where a write lands: what a store would hold afterwards."""

    def __init__(self):
        self.content = OLD
        self.ended = []

    def open(self, path="x", mode="wb", fail_on=None):
        raw = io.BytesIO()

        class Driver(io.BytesIO):
            def write(self, data):
                if fail_on == "write":
                    raise ConnectionResetError("gone")
                return raw.write(data)

        def commit():
            if fail_on == "commit":
                raise ConnectionResetError("gone")
            self.content = raw.getvalue()
            self.ended.append("commit")

        def abandon():
            self.ended.append("abandon")

        return WholeWrite(Driver(), commit, abandon, contextlib.nullcontext)


@pytest.fixture
def shelf():
    return Shelf()


def test_close_publishes_once(shelf):
    file = shelf.open()
    file.write(b"new")
    file.close()
    file.close()
    assert (shelf.content, shelf.ended) == (b"new", ["commit"])


def test_a_block_that_ends_well_publishes(shelf):
    with shelf.open() as file:
        file.write(b"new")
    assert shelf.content == b"new"


def test_an_exception_in_the_block_keeps_the_old(shelf):
    with pytest.raises(ZeroDivisionError), shelf.open() as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert (shelf.content, shelf.ended) == (OLD, ["abandon"])


def test_a_timeout_of_something_else_waits_for_what_tidies_up(shelf):
    """The store answers: it is the block that waited for somebody else in vain."""
    with pytest.raises(TimeoutError), shelf.open() as file:
        file.write(b"half")
        raise TimeoutError
    assert (shelf.content, shelf.ended) == (OLD, ["abandon"])


def test_ctrl_c_in_the_block_keeps_the_old(shelf):
    with pytest.raises(KeyboardInterrupt), shelf.open() as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert shelf.content == OLD


def test_ctrl_c_again_ends_the_waiting_for_what_is_abandoned_and_not_that():
    may_end, ended = threading.Event(), threading.Event()

    def abandon():
        os.kill(os.getpid(), signal.SIGINT)
        may_end.wait(20)
        ended.set()

    writer = WholeWrite(io.BytesIO(), lambda: None, abandon, contextlib.nullcontext)
    with pytest.raises(KeyboardInterrupt) as interrupt, writer:
        raise KeyboardInterrupt("first")
    assert interrupt.value.args == ()
    may_end.set()
    assert ended.wait(20)


def test_text_and_its_buffer_vanish_with_the_exception(shelf):
    with pytest.raises(ZeroDivisionError), WholeText(shelf.open()) as file:
        file.write("half")
        raise ZeroDivisionError
    assert (shelf.content, shelf.ended) == (OLD, ["abandon"])


def test_text_that_ends_well_is_published(shelf):
    with WholeText(shelf.open(), encoding="utf8") as file:
        file.write("é")
    assert shelf.content == "é".encode()


@pytest.mark.parametrize("mode", ["wb", "w"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_fsspecs_open_file_keeps_the_old(shelf, mode, compression):
    opened = fsspec.core.OpenFile(shelf, "x", mode, compression=compression)
    with pytest.raises(ZeroDivisionError), opened as file:
        file.write("half" if mode == "w" else b"half")
        raise ZeroDivisionError
    assert (shelf.content, shelf.ended) == (OLD, ["abandon"])


def test_an_exit_stack_keeps_the_old(shelf):
    with pytest.raises(ZeroDivisionError), contextlib.ExitStack() as stack:
        file = shelf.open()
        stack.callback(file.close)
        file.write(b"half")
        raise ZeroDivisionError
    assert shelf.content == OLD


def test_asynchronous_contexts_keep_the_old(shelf):
    import asyncio

    @contextlib.asynccontextmanager
    async def artifact():
        file = shelf.open()
        try:
            yield file
        finally:
            file.close()

    async def by_generator():
        async with artifact() as file:
            file.write(b"half")
            await asyncio.sleep(0)
            raise ZeroDivisionError

    async def by_stack():
        async with contextlib.AsyncExitStack() as stack:
            file = shelf.open()
            stack.callback(file.close)
            file.write(b"half")
            raise ZeroDivisionError

    for broken in (by_generator, by_stack):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(broken())
        assert shelf.content == OLD


def test_a_file_opened_while_a_block_is_left_publishes(shelf):
    class Reporter:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, traceback):
            file = shelf.open()
            file.write(b"report")
            try:
                {}["missing"]
            except KeyError:
                file.close()

    with pytest.raises(ZeroDivisionError), Reporter():
        raise ZeroDivisionError
    assert shelf.content == b"report"


def test_a_forked_child_leaves_its_parents_write_alone(shelf):
    import os

    file = shelf.open()
    file.write(b"new")
    child = os.fork()
    if child == 0:
        file.abandon()
        os._exit(len(shelf.ended))
    assert os.waitpid(child, 0)[1] == 0
    file.close()
    assert shelf.content == b"new"


def test_close_in_an_except_block_publishes(shelf):
    file = shelf.open()
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        file.write(b"a note of what went wrong")
        file.close()
    assert shelf.content == b"a note of what went wrong"


def test_a_whole_write_inside_an_except_block_publishes(shelf):
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        with shelf.open() as file:
            file.write(b"new")
    assert shelf.content == b"new"


def test_an_exit_that_writes_because_of_an_exception_publishes(shelf):
    class Reporter:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, traceback):
            with shelf.open() as file:
                file.write(b"report")

    with pytest.raises(ZeroDivisionError), Reporter():
        raise ZeroDivisionError
    assert shelf.content == b"report"


def test_garbage_is_not_published_and_warns(shelf):
    file = shelf.open()
    file.write(b"half")
    with pytest.warns(ResourceWarning, match="not written"):
        del file
        gc.collect()
    assert shelf.content == OLD


def test_after_a_failed_write_close_publishes_nothing(shelf):
    file = shelf.open(fail_on="write")
    with pytest.raises(ConnectionResetError):
        file.write(b"x")
    with pytest.raises(ConnectionResetError):
        file.close()
    assert (shelf.content, shelf.ended) == (OLD, ["abandon"])


def test_a_failed_commit_is_abandoned(shelf):
    file = shelf.open(fail_on="commit")
    file.write(b"x")
    with pytest.raises(ConnectionResetError):
        file.close()
    assert (shelf.content, shelf.ended) == (OLD, ["abandon"])
    assert file.closed


def test_writing_to_a_closed_file_is_refused(shelf):
    file = shelf.open()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.write(b"x")


def test_landing_renames_at_the_end(tmp_path):
    target = tmp_path / "x"
    target.write_bytes(OLD)
    with landing(str(target)) as temporary:
        with open(temporary, "wb") as file:
            file.write(b"new")
        assert target.read_bytes() == OLD
    assert target.read_bytes() == b"new"
    assert {p.name for p in tmp_path.iterdir()} == {"x", "home"}


def test_landing_leaves_nothing_after_an_exception(tmp_path):
    with pytest.raises(ZeroDivisionError), landing(str(tmp_path / "x")) as temporary:
        with open(temporary, "wb") as file:
            file.write(b"half")
        raise ZeroDivisionError
    assert {p.name for p in tmp_path.iterdir()} == {"home"}


def test_text_that_is_garbage_is_not_published(shelf):
    file = WholeText(shelf.open())
    file.write("half")
    with pytest.warns(ResourceWarning, match="not written"):
        del file
        gc.collect()
    assert shelf.content == OLD


def test_a_transaction_does_not_publish_what_failed(tmp_path):
    fs = mlartifacts.filesystem("file")
    failed, good = str(tmp_path / "failed"), str(tmp_path / "good")
    fs.pipe_file(failed, OLD)
    with fs.transaction:
        with pytest.raises(ZeroDivisionError), fs.open(failed, "wb") as file:
            file.write(b"half")
            raise ZeroDivisionError
        with fs.open(good, "wb") as file:
            file.write(b"good")
    assert (fs.cat_file(failed), fs.cat_file(good)) == (OLD, b"good")


def test_an_exception_raised_again_keeps_the_old(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(OLD)
    with pytest.raises(ZeroDivisionError):
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            with mlartifacts.open(path, "w") as file:
                file.write("half")
                raise
    assert path.read_bytes() == OLD
