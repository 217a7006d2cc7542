import hashlib
from pathlib import Path

import numpy as np

from zoo import corpus, standard_library


def test_split_is_by_file_and_complete():
    training, held_out = corpus.split(held_out=False), corpus.split(held_out=True)
    assert set(training.files).isdisjoint(held_out.files)
    assert sorted([*training.files, *held_out.files]) == sorted(standard_library.sources())
    assert 0.02 < len(held_out.files) / len(training.files) < 0.12


def test_split_depends_on_the_name_alone():
    for number in range(200):
        name = f"folder/file_{number}.py"
        last_digit = hashlib.sha256(name.encode()).hexdigest()[15]
        assert corpus.is_held_out(Path(name)) == (last_digit == "0")


def test_text_is_the_files_each_after_a_zero_byte():
    held_out = corpus.split(held_out=True)
    parts = held_out.text.tobytes().split(corpus.BOUNDARY)
    root = standard_library.root()
    assert parts == [b"", *((root / file).read_bytes() for file in held_out.files)]


def test_tests_packages_and_tables_are_left_out():
    folders = {folder for file in standard_library.sources() for folder in file.parts[:-1]}
    assert folders.isdisjoint({"test", "tests", "site-packages", "encodings", "pydoc_data"})
    assert {"json", "email"} <= folders


def test_windows_are_pieces_of_the_text():
    text = np.arange(100, dtype=np.uint8)
    found = corpus.windows(text, 0, 200, 10)
    assert found.shape == (200, 10)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(np.diff(found, axis=1), 1)


def test_windows_depend_on_their_index_alone():
    text = np.arange(100, dtype=np.uint8)
    everything = corpus.windows(text, 0, 30, 7)
    np.testing.assert_array_equal(corpus.windows(text, 20, 10, 7), everything[20:])


def test_windows_are_spread_evenly():
    text = np.repeat(np.arange(10, dtype=np.uint8), 1000)
    starts = corpus.windows(text, 0, 1000, 8)[:, 0]
    np.testing.assert_allclose(np.bincount(starts), 100, atol=5)


def test_window_may_be_the_whole_text():
    text = np.arange(9, dtype=np.uint8)
    np.testing.assert_array_equal(corpus.windows(text, 3, 1, 9), [np.arange(9)])
