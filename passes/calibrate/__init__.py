"""Statistics of a program's values over calibration data, and ranges read off them."""
