"""One decision model for every kind of compression: which option each unit of a program takes."""
