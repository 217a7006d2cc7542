"""Statistics of a value against plain numpy over all data at once."""

import numpy as np
import pytest

from effc.passes.calibrate.value import BLOCK_ELEMENTS, Layout, ValueStatistics

ROWS, MAPS = Layout(is_map=False, has_moment=True), Layout(is_map=True)


def batches(shape: tuple[int, ...], count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0.3, 1 + i, shape).astype(np.float32) for i in range(count)]


def merged(parts: list[np.ndarray], layout: Layout) -> ValueStatistics:
    found = ValueStatistics.of(parts[0], layout)
    for part in parts[1:]:
        found = found.merged(ValueStatistics.of(part, layout))
    return found


def test_rows() -> None:
    parts = batches((2, 5, 7))
    flat = np.concatenate(parts).reshape(-1, 7).astype(np.float64)
    found = merged(parts, ROWS)
    assert (found.rows, found.slices, found.count) == (30, 30, 210)
    assert (found.minimum, found.maximum) == (flat.min(), flat.max())
    assert np.array_equal(found.channel_max, np.abs(flat).max(0))
    np.testing.assert_allclose(found.channel_mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.channel_mean_square, (flat**2).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.moment, flat.T @ flat, rtol=1e-5, atol=1e-4)
    assert_slices(found, flat)


def test_feature_maps() -> None:
    parts = batches((2, 3, 4, 5))
    images = np.concatenate(parts).astype(np.float64)
    found = merged(parts, MAPS)
    assert (found.rows, found.slices, found.count) == (120, 6, 360)
    assert np.array_equal(found.channel_max, np.abs(images).max((0, 2, 3)))
    np.testing.assert_allclose(found.channel_mean, images.mean((0, 2, 3)), rtol=1e-12)
    assert_slices(found, images.reshape(6, -1))
    assert found.moment is None


def assert_slices(found: ValueStatistics, slices: np.ndarray) -> None:
    ranges = np.maximum(slices.max(1), 0) - np.minimum(slices.min(1), 0)
    assert found.slice_log_range == pytest.approx(np.log(ranges**2).sum())
    assert found.slice_log_energy == pytest.approx(np.log((slices**2).mean(1)).sum())


def test_a_slice_without_zero_is_widened_to_hold_it() -> None:
    found = ValueStatistics.of(np.array([[3.0, 4.0], [-2.0, -1.0]], np.float32), ROWS)
    assert found.slice_log_range == pytest.approx(np.log(16) + np.log(4))


def test_slices_of_zeros_do_not_count() -> None:
    found = ValueStatistics.of(np.array([[0.0, 0.0], [1.0, -1.0]], np.float32), ROWS)
    assert (found.slices, found.slice_log_energy) == (1, 0.0)
    assert found.rows == 2


def test_blocks_do_not_change_the_result() -> None:
    (large,) = batches((BLOCK_ELEMENTS // 16 + 3, 32), 1)
    found, wide = ValueStatistics.of(large, ROWS), large.astype(np.float64)
    assert found.histogram.total == large.size
    np.testing.assert_allclose(found.channel_sum, wide.sum(0), rtol=1e-12)
    assert found.channel_max.dtype == np.float32


def test_arrays_read_back() -> None:
    found = merged(batches((4, 3)), ROWS)
    again = ValueStatistics.from_arrays(found.arrays())
    assert again.arrays().keys() == found.arrays().keys()
    for name, array in found.arrays().items():
        assert np.array_equal(array, again.arrays()[name])
