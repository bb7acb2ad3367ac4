"""Files that grow by whole entries, on disks that fill up and get room again."""

import errno
import os
import threading

import pytest

from impala_mi.host import files


class Disk:
    """Room for bytes, behind `os.write`; like a kernel's it takes what fits and refuses the rest."""

    def __init__(self, monkeypatch, room):
        self.room, write = room, os.write

        def write_what_fits(descriptor, data):
            count = min(len(data), self.room)
            if data and not count:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room -= count
            return write(descriptor, data[:count])

        monkeypatch.setattr(files.os, "write", write_what_fits)


def test_an_entry_is_written_whole_or_not_at_all(monkeypatch, tmp_path):
    disk, file = Disk(monkeypatch, 15), tmp_path / "log"
    files.append(file, b"first entry\n")
    with pytest.raises(OSError, match="No space left"):
        files.append(file, b"second entry\n")
    assert file.read_bytes() == b"first entry\n"
    disk.room = 100
    files.append(file, b"third entry\n")
    assert file.read_bytes() == b"first entry\nthird entry\n"


def test_what_is_refused_is_written_later_and_in_order(monkeypatch, tmp_path):
    disk, file = Disk(monkeypatch, 5), tmp_path / "log"
    log = files.Log(file)
    log.append(b"1\n")
    for entry in (b"two\n", b"3\n"):  # the smaller one would fit
        with pytest.raises(OSError, match="No space left"):
            log.append(entry)
    assert file.read_bytes() == b"1\n"
    disk.room = 100
    log.append(b"4\n")
    assert file.read_bytes() == b"1\ntwo\n3\n4\n"
    log.sync()
    assert file.read_bytes() == b"1\ntwo\n3\n4\n"


def test_what_is_kept_is_bounded_and_the_newest(monkeypatch, tmp_path):
    disk, file = Disk(monkeypatch, 0), tmp_path / "log"
    log = files.Log(file, max_bytes=6)
    for entry in (b"a\n", b"b\n", b"c\n", b"d\n"):
        with pytest.raises(OSError, match="No space left"):
            log.append(entry)
    disk.room = 100
    log.flush()
    assert file.read_bytes() == b"b\nc\nd\n"


@pytest.mark.parametrize("reader", [False, True])
def test_pipes_and_folders_are_never_written_to(tmp_path, reader):
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    if reader:
        descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    error = []

    def write():
        for path in (pipe, folder):
            try:
                files.append(path, b"x" * 10**6)
            except OSError as e:
                error.append(e)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(5)
    assert len(error) == 2
    if reader:
        os.close(descriptor)


def test_a_log_whose_folder_is_gone_raises_and_does_not_make_it(tmp_path):
    log = files.Log(tmp_path / "gone" / "log")
    with pytest.raises(FileNotFoundError):
        log.append(b"1\n")
    (tmp_path / "gone").mkdir()
    log.sync()
    assert (tmp_path / "gone" / "log").read_bytes() == b"1\n"
