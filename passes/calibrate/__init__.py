"""Statistics of a program's values over calibration data, and the ranges observers read off them."""
